"""Every family of distillation on real data: python benchmarks/families.py [family ...]

Each row is a student that learns in three seeds, beside the same student without a teacher and
beside plain `kd`, for equal epochs; scores are of the test part of digits, mean and half of the
range. A run's manifest is kept in `--out`, and the table is made of these: the same command goes on
where it was. It needs `model.pt` and `vit.pt` of examples/teachers; smaller teachers, of 200 labels
or less, are trained into `--out` first. `--table` prints what is there; `--page docs/families.md`
writes the table between the two marks of that page, where rows that were not run stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

import language
import numpy as np
import torch
from page import between, put
from torch import nn

import compressc
from compressc import making
from compressc.condensing import condense
from compressc.data import Dataset, Split
from compressc.data.digits import digits
from compressc.report import Record
from compressc.session import read_model
from compressc.synthesizing import synthesize, write
from compressc.target import Target

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import views

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples/teachers"))

NO_LABEL = -100
#: Of each class, in `few`.
LABELLED = 10
#: Of the marks in the page.
MARK = "families"


class Small(nn.Sequential):
    """A student of another architecture: f32[b,1,8,8] -> f32[b,10], 10 thousand parameters."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        first = [nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU()]
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(512, 10))


def few() -> Dataset:
    """Digits of which 100 training samples have a label; the others have images alone."""
    data = digits()
    images, labels = data.train.take(len(data.train)).inputs, data.train.all_labels()
    assert labels is not None
    hidden = torch.full_like(labels, NO_LABEL)
    for digit in range(10):
        known = torch.nonzero(labels == digit).flatten()[:LABELLED]
        hidden[known] = digit
    return Dataset("few", Split(images, hidden), data.calibration, data.test)


#: Samples without data, and how they are made.
MADE, METHOD = 512, "deepinversion(steps=200)"


def synthetic() -> Dataset:
    """Samples made from the teacher alone, judged on real digits."""
    return _judged_on_digits("synthetic", np.load(Path("build/families/synth.npz"))["x"])


def noise() -> Dataset:
    """As many images of noise, judged on real digits."""
    return _judged_on_digits("noise", np.random.default_rng(0).normal(size=(MADE, 1, 8, 8)))


def _judged_on_digits(name: str, images: np.ndarray) -> Dataset:
    samples = Split((torch.from_numpy(images).float(),))
    return Dataset(name, samples, samples.take(256), digits().test)


def synthesized(path: Path) -> None:
    """Write what `synthetic` reads."""
    options = {"factory": None, "state_key": None, "ignore_extra": False, "dtype": "float32"}
    graph = read_model("model.pt", None, (), trust_pickle=False, **options).graph
    write(synthesize(graph, METHOD, MADE, say=print), path)


def teacher(path: Path, labels: int, width: int, epochs: int, seed: int) -> None:
    """Train a digits CNN by so many labels of each class."""
    import digits as example

    data = few().train if labels == LABELLED else digits().train
    whole = data.take(len(data))
    assert isinstance(whole.labels, torch.Tensor)
    known = whole.labels != NO_LABEL
    images, right = whole.inputs[0][known], whole.labels[known]
    torch.manual_seed(seed)
    model = example.DigitsNet(width)
    example.train(model, images, right, example.Recipe(epochs, 0.01, min(64, len(images)), seed))
    example.save(model, images[:4], path)


def few_lower() -> Dataset:
    """Digits and their lower halves; 100 training pairs have a label."""
    return _few_labels(views.lower())


def few_hog() -> Dataset:
    """Digits and their histograms of gradients; 100 training pairs have a label."""
    return _few_labels(views.hog())


def lower_alone() -> Dataset:
    """The lower halves of `few_lower`."""
    return few_lower().cast(lambda inputs: inputs[1:])


def hog_alone() -> Dataset:
    """The histograms of `few_hog`."""
    return few_hog().cast(lambda inputs: inputs[1:])


def _few_labels(data: Dataset) -> Dataset:
    whole = data.train.take(len(data.train))
    train = Split(whole.inputs, few().train.all_labels(), data.train.names)
    return Dataset(data.name, train, data.calibration, data.test)


def teacher_of_view(path: Path, name: str) -> None:
    """Train an MLP by the 100 labels, on a view alone."""
    import digits as example

    data = {"lower": lower_alone, "hog": hog_alone}[name]().train
    whole = data.take(len(data))
    known = whole.labels != NO_LABEL
    inputs, right = whole.inputs[0][known], whole.labels[known]
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), right).backward()
        optimizer.step()
    example.save(model.eval(), inputs[:4], path)


#: file: labels of each class (0 for all), width, epochs, seed.
TEACHERS = {f"few{i}.pt": (LABELLED, 24, 60, i) for i in (1, 2, 3)}

SMALL = "student(factory='benchmarks/families.py:Small')"
FEW = "benchmarks/families.py:few"


@dataclass(frozen=True)
class Setting:
    """A teacher, data, and what makes the student; the two baselines are of it.

    Attributes:
        model: the run's, under `--out` where it is one of `TEACHERS`.
        data: as `--data` has it.
        says: of the data, for the table.
        student: the pass that makes it.
        epochs: of each training.
        score: what runs are held against.
        plain: the objective of the second baseline.
        more: options of each training.
        rival: that plain kd is of, where it has another teacher.
    """

    model: str
    data: str
    says: str
    student: str
    epochs: int
    score: str = "accuracy"
    plain: str = "kd"
    more: str = ""
    rival: Setting | None = None

    def taught(self, options: str, what: str = "distill") -> str:
        """A training of the student."""
        return f"{self.student},{what}({options},epochs={self.epochs}{self.more})"

    @property
    def alone(self) -> str:
        """Without a teacher."""
        return self.taught("loss=ce")

    @property
    def kd(self) -> str:
        """By plain kd."""
        return self.taught(f"loss='0.1*ce + 0.9*{self.plain}'")


#: A teacher that saw 100 labels, and data with all of them.
WEAK = Setting("few1.pt", "digits", "digits, all labels; teacher of 100", SMALL, 10)
CUT = Setting("model.pt", "digits", "digits", "prune(ratio=0.5,refit=false)", 10)
FULL = Setting("model.pt", "digits", "digits", SMALL, 10)
THIRDS = "student(depth=0.67),prune(ratio=0.2,refit=false)"
VIT = Setting("vit.pt", "digits", "digits, ViT with a third fewer blocks", THIRDS, 10)
LANGUAGE = "benchmarks/language.py"
TEXT = Setting(
    "signs.pt2",
    f"{LANGUAGE}:language",
    "signs of Python code, perplexity",
    f"student(factory='{LANGUAGE}:Small')",
    10,
    "perplexity",
    "kd(T=1)",
    ",lr=0.005",
)
FEW_LABELS = Setting("few1.pt", FEW, "digits, 100 labels, 1,157 without", SMALL, 20)


def _views() -> Iterator[Setting]:
    """A student of each view; the rival's teacher sees that view alone, and knew 100 labels."""
    for name, says in (("lower", "lower half"), ("hog", "gradient histogram")):
        student = f"student(factory='examples/views.py:{name.capitalize()}')"
        place, about = "benchmarks/families.py", f"digits, student sees the {says}, 100 labels"
        rival = Setting(f"{name}.pt", f"{place}:{name}_alone", about, student, 20)
        option = f",student_inputs={name}"
        yield Setting(
            "model.pt", f"{place}:few_{name}", about, student, 20, more=option, rival=rival
        )


#: Ten samples of each digit, drawn at random; other ways to have them are held against this.
TEN = Setting("model.pt", "{out}/random-{seed}.npz", "digits, 10 samples of each", SMALL, 60)
CONDENSED = ("herding", "matching", "kernel")


def condensed(path: Path, method: str, seed: int) -> None:
    """What `compressc condense --per-class 10` writes of digits."""
    data = digits()
    x, y = condense(data, 10, method, seed=seed, cache=None, say=print)
    test = data.test.take(len(data.test))
    arrays = {"x_train": x, "y_train": y, "x_test": test.inputs[0], "y_test": test.labels}
    making.write(arrays, path)


@dataclass(frozen=True)
class Row:
    """A family's way, in a setting.

    Attributes:
        family: that it is of.
        setting: that its baselines are of.
        passes: of the command.
        data: in place of the setting's; `-` for none.
    """

    family: str
    setting: Setting
    passes: str
    data: str = ""

    @property
    def name(self) -> str:
        """Of its files."""
        digest = hashlib.sha256(f"{self.passes} {self.data}".encode()).hexdigest()
        return f"{re.sub(r'[^a-z]+', '-', self.family)}-{digest[:12]}"


def rows() -> Iterator[Row]:
    """All of them."""
    kd = "loss='0.1*ce + 0.9*kd'"
    for combine in ("mean", "confidence", "learned"):
        named = "teachers='{out}/few1.pt,{out}/few2.pt,{out}/few3.pt'"
        options = f"{kd},{named},combine={combine}"
        yield Row("several teachers", FEW_LABELS, FEW_LABELS.taught(options))
    yield Row("several teachers", VIT, VIT.taught(f"{kd},teachers='vit.pt,model.pt'"))
    for trust in ("labels", "entropy"):
        yield Row("selective", WEAK, WEAK.taught(f"{kd},trust={trust}"))
    for setting in (FULL, VIT):
        yield Row("self: generations", setting, setting.taught(f"{kd},generations=3"))
    for setting in (FULL, FEW_LABELS, VIT):
        yield Row("self: last epoch", setting, setting.taught("loss=last_epoch"))
    for setting in (FULL, FEW_LABELS, VIT):
        yield Row("online: peers", setting, setting.taught("peers=3,teacher=peers", "mutual"))
    yield Row("online: ensemble", FULL, FULL.taught("peers=3,teacher=ensemble", "mutual"))
    for name in ("crd", "infonce"):
        loss = f"loss='0.1*ce + 0.9*kd + {name}',weights=auto"
        yield Row(f"contrastive: {name}", FULL, FULL.taught(loss))
    reverse = "loss='0.1*ce + 0.9*reverse_kl(T=1)'"
    yield Row(
        "language: text of the teacher's", TEXT, TEXT.taught("loss=ce"), f"{LANGUAGE}:written"
    )
    yield Row("language: reverse_kl", TEXT, TEXT.taught(reverse))
    yield Row("language: reverse_kl, own text", TEXT, TEXT.taught(f"{reverse},on_policy=0.5"))
    for method in CONDENSED:
        for passes, taught in ((TEN.alone, "labels"), (TEN.kd, "kd")):
            file = f"{{out}}/{method}-{{seed}}.npz"
            yield Row(f"condensed: {method}, {taught}", TEN, passes, file)
    for setting in _views():
        yield Row("cross-modal", setting, setting.taught(kd))
    for family, name in (
        ("adversarial", "0.1*adversarial"),
        ("adversarial", "0.1*adversarial_vectors"),
        ("graph", "graph"),
    ):
        yield Row(family, FULL, FULL.taught(f"loss='0.1*ce + 0.9*kd + {name}'"))
    for data in ("synthetic", "noise"):
        name = f"without data ({data}, {MADE})"
        yield Row(name, CUT, CUT.taught("loss=kd"), f"benchmarks/families.py:{data}")


@dataclass(frozen=True)
class Bench:
    """Where runs are kept, and how many seeds there are."""

    out: Path
    seeds: int

    def path(self, setting: Setting, row: Row, seed: int) -> Path:
        """Of a manifest."""
        place = re.sub(r"[^a-z0-9]+", "-", f"{setting.model} {setting.says}".lower()).strip("-")
        return self.out / place / f"{row.name}-{seed}.json"

    def model(self, setting: Setting) -> str:
        """Its file."""
        own = setting.model in (*TEACHERS, "lower.pt", "hog.pt") or setting is TEXT
        return str(self.out / setting.model) if own else setting.model

    def run(self, row: Row, seed: int) -> None:
        """One training, unless it was done."""
        file = self.path(row.setting, row, seed)
        if file.exists():
            return
        data = row.data or row.setting.data
        made = compressc.compile(
            self.model(row.setting),
            row.passes.replace("{out}", str(self.out)),
            data=None if data == "-" else self.named(data, seed),
            seed=seed,
            cache=None,
            target=Target(backends=(), batches=()),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        report = made.report.model_copy(update={"command": self.command(row)})
        report.write(file)
        print(file.name, report.passes[-1].scores, file=sys.stderr, flush=True)

    def named(self, data: str, seed: int) -> str:
        """With the places of files."""
        return data.replace("{out}", str(self.out)).replace("{seed}", str(seed))

    def command(self, row: Row) -> str:
        """As a user gives it."""
        data = row.data or row.setting.data
        given = "" if data == "-" else f" --data {data}"
        text = f'compressc {self.model(row.setting)} --passes "{row.passes}"{given}'
        return self.named(text, 0)

    def baselines(self, row: Row) -> tuple[Row, Row]:
        """Without a teacher, and by plain kd."""
        setting = row.setting
        rival = setting.rival or setting
        return Row("without teacher", setting, setting.alone), Row("kd", rival, rival.kd)

    def figure(self, row: Row) -> tuple[str, Record | None]:
        """Mean and half of the range; a manifest of it."""
        files = [self.path(row.setting, row, seed) for seed in range(self.seeds)]
        found = [Record.read(file) for file in files if file.exists()]
        scores = [self.score(row, one.passes[-1].scores) for one in found]
        if not scores:
            return "", None
        spread = (max(scores) - min(scores)) / 2
        few = "" if len(scores) == self.seeds else f" ({len(scores)} seeds)"
        places = self.places(row)
        return f"{mean(scores):.{places}f} ± {spread:.{places}f}{few}", found[0]

    def score(self, row: Row, scores: Mapping[str, float]) -> float:
        """Of a run, in percent where it is a share."""
        name = row.setting.score
        return (100 if name == "accuracy" else 1) * scores.get(name, 0.0)

    def places(self, row: Row) -> int:
        """Behind the point."""
        return 1 if row.setting.score == "accuracy" else 2

    def table(self, older: str = "") -> str:
        """Of all that is there; rows without runs are taken from an older table."""
        known = {line.rsplit("`", 2)[-2]: line for line in older.splitlines() if "`" in line}
        head = "| family | data | without teacher | plain `kd` | this | teacher | command |\n"
        lines = [head + "|---|---|---|---|---|---|---|"]
        for row in rows():
            mine, record = self.figure(row)
            if record is None:
                lines += [known[command]] if (command := self.command(row)) in known else []
                continue
            alone, kd = (self.figure(other)[0] for other in self.baselines(row))
            theirs = self.score(row, record.teacher.scores)
            cells = [
                row.family,
                row.setting.says,
                alone,
                kd,
                mine,
                f"{theirs:.{self.places(row)}f}",
            ]
            lines.append(f"| {' | '.join(cells)} | `{record.command}` |")
        return "\n".join(lines)


def prepare(out: Path, wanted: Sequence[Row], seeds: int) -> None:
    """Make the models and files that rows need, where they are missing."""
    out.mkdir(parents=True, exist_ok=True)
    said = " ".join(f"{row.setting.model} {row.passes} {row.data}" for row in wanted)
    ways = ("random", *CONDENSED) if any(row.setting is TEN for row in wanted) else ()
    made = {out / name: partial(teacher, out / name, *about) for name, about in TEACHERS.items()}
    found = {file: make for file, make in made.items() if file.name in said}
    for name in views.VIEWS:
        if f"student_inputs={name}" in said:
            found[out / f"{name}.pt"] = partial(teacher_of_view, out / f"{name}.pt", name)
    for method, seed in product(ways, range(seeds)):
        file = out / f"{method}-{seed}.npz"
        found[file] = partial(condensed, file, method, seed)
    if "synthetic" in said:
        found[out / "synth.npz"] = partial(synthesized, out / "synth.npz")
    for file, make in found.items():
        if not file.exists():
            make()
    if any(row.setting is TEXT for row in wanted):
        language.prepare(out / TEXT.model, out / "written.npz")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="these alone: how their names begin")
    parser.add_argument("--out", type=Path, default=Path("build/families"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print what is there, no more")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    given = parser.parse_args()
    bench = Bench(given.out, given.seeds)
    wanted = [row for row in rows() if any(map(row.family.startswith, given.families or [""]))]
    if not given.table:
        prepare(given.out, wanted, given.seeds)
        for seed in range(given.seeds):
            for row in wanted:
                for one in (*bench.baselines(row), row):
                    bench.run(one, seed)
    table = bench.table(between(given.page, MARK) if given.page else "")
    if given.page:
        put(given.page, MARK, table)
    print(table)


if __name__ == "__main__":
    main()
