"""Every objective on students that start from a teacher's weights: python benchmarks/objectives.py

Each student learns for equal epochs by each loss, in three seeds, from the same teacher: score and
mean KL(teacher || student) on the test part, mean and half of the range, and the processor's time
of a training, the least of the seeds, beside that of plain `kd`. `as it comes` is `distill`
with no loss named; `labels alone` is `ce`; an objective that reads answers stands in the place of
`kd` in `0.1*ce + 0.9*kd`; one that reads inner values or relations stands beside it, at the weight
that `weights=auto` gives it.

Runs are kept in `--out`, a file each: the same command goes on where it was, and several may work
side by side (`--share 0/4`, ...). The students of digits need no network, but `model.pt` and
`vit.pt` of examples/teachers; `fashion` needs examples/teachers/fashion.py to have been run,
`minilm` fetches what benchmarks/recovery.py does. `--table` prints what is there,
`--page docs/objectives.md` puts it between the student's marks of that page, where rows that were
not run stay as they are.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from page import between, put
from recovery import classifier, fetch
from torch import Tensor, nn
from torch.nn import functional as F

import compressc
from compressc.distillation import Objective
from compressc.ir import Graph, lower
from compressc.pipeline import PassCache, Pipeline, parse_passes
from compressc.plugins import OBJECTIVES, find
from compressc.session import Session, open_session
from compressc.spec import load_class
from compressc.target import Target

DEFAULT, LABELS, KD = "as it comes", "labels alone", "kd"
#: Of the test part, where it is larger.
TESTED = 10_000
#: Of Fashion-MNIST that are learned from: three seeds of every objective in half an hour of a core.
IMAGES = 10_000


@dataclass(frozen=True)
class Student:
    """What learns.

    Attributes:
        opened: the teacher and its data.
        made_by: the passes that make it.
        epochs: of each training.
    """

    opened: Callable[[], Session]
    made_by: str
    epochs: int


class Small(nn.Sequential):
    """Another architecture: f32[b,1,8,8] -> f32[b,10]."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        first = [nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU()]
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(512, 10))


def glosses() -> Session:
    """MiniLM with a classifier of WordNet glosses."""
    cache = Path(".recovery")
    fetch(cache)
    case = classifier(cache)
    return open_session(case.teacher, data=case.data)


def fashion() -> Session:
    """The Fashion-MNIST teacher, with a part of its training images."""
    whole = open_session("build/fashion/model.pt2", data="build/fashion/data/")
    assert whole.data is not None
    return replace(whole, data=replace(whole.data, train=whole.data.train.take(IMAGES)))


FACTORY = f"student(factory='{Path(__file__).resolve()}:Small')"
STUDENTS = {
    "digits_cnn": Student(
        partial(open_session, "model.pt", data="digits"), "prune(ratio=0.5,refit=false)", 5
    ),
    "digits_vit": Student(
        partial(open_session, "vit.pt", data="digits"),
        "student(depth=0.67),prune(ratio=0.2,refit=false)",
        10,
    ),
    "digits_factory": Student(partial(open_session, "model.pt", data="digits"), FACTORY, 10),
    "fashion": Student(fashion, "prune(ratio=0.5,refit=false)", 2),
    "minilm": Student(glosses, "student(depth=0.5)", 4),
}


def losses() -> Iterator[tuple[str, str]]:
    """(objective, options of `distill`) of each row."""
    yield DEFAULT, "loss=auto"
    yield LABELS, "loss=ce"
    yield KD, "loss='0.1*ce + 0.9*kd'"
    for name in find(OBJECTIVES):
        if name in ("ce", KD):
            continue
        cls: type[Objective] = load_class(Objective, name)  # type: ignore[type-abstract]
        if "spans" in cls.reads:  # of texts alone
            continue
        if cls.reads <= {"rows", "labels"}:
            yield name, f"loss='0.1*ce + 0.9*{name}'"
        else:
            yield name, f"loss='0.1*ce + 0.9*kd + {name}',weights=auto"


@dataclass
class Bench:
    """One student's runs on one device, its teacher asked once."""

    student: Student
    cache: Path
    device: str = "cpu"
    session: Session = field(init=False)
    theirs: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.session = self.student.opened()
        assert self.session.data is not None
        self.test = self.session.data.test.take(TESTED)
        self.theirs = self.answers(self.session.loaded.graph)

    @torch.no_grad()
    def answers(self, graph: Graph) -> Tensor:
        """Log-probabilities f32[n,c] of the test part."""
        module = copy.deepcopy(lower(graph)).to(self.device).eval()
        parts = self.test.batches(500)
        rows = [module(*[x.to(self.device) for x in part.inputs]) for part in parts]
        return torch.cat(rows).float().log_softmax(1).cpu()

    def score(self, answers: Tensor) -> float:
        """Share of labels that are told right."""
        assert isinstance(self.test.labels, Tensor)
        return float((answers.argmax(1) == self.test.labels).float().mean())

    def made(self, passes: str, seed: int) -> list[Graph]:
        """What comes of each pass; the last has its weights."""
        target = Target(backends=(), batches=(), device=self.device)
        pipeline = Pipeline(
            parse_passes(passes),
            self.session.data,
            seed,
            PassCache(self.cache),
            task=self.session.task,
            target=target,
        )
        return [result.graph for result in pipeline.run(self.session.loaded.graph)]

    def run(self, options: str, seed: int) -> dict[str, Any]:
        """One training by these options of `distill`: its cost, and how the student does."""
        before = self.answers(self.made(self.student.made_by, seed)[-1])
        start = time.process_time()
        made = self.made(f"{self.student.made_by},distill({options})", seed)[-1]
        seconds = time.process_time() - start
        mine = self.answers(made)
        return {
            "seconds": seconds,
            "score": self.score(mine),
            "before": self.score(before),
            "teacher": self.score(self.theirs),
            "kl": float(F.kl_div(mine, self.theirs, reduction="batchmean", log_target=True)),
            "device": self.device,
        }


def row(label: str, runs: list[dict[str, Any]], cost: str) -> tuple[float, str]:
    """(mean KL, a row of the table)."""
    good = [one for one in runs if "error" not in one]
    if not good:
        why = re.split(r" \(got| at the loss|; hint", runs[0]["error"])[0] if runs else "not run"
        return float("inf"), f"| {label} | {why} | | |"
    scores, kls = ([one[key] for one in good] for key in ("score", "kl"))
    cells = [
        f"{mean(scores):.2%} ± {(max(scores) - min(scores)) / 2:.2%}",
        f"{mean(kls):.4f} ± {(max(kls) - min(kls)) / 2:.4f}",
        cost,
    ]
    return mean(kls), f"| {label} | {' | '.join(cells)} |"


def least(runs: list[dict[str, Any]]) -> float | None:
    """The processor's seconds of a training; other work makes some of them longer."""
    return min((one["seconds"] for one in runs if "seconds" in one), default=None)


def older_rows(text: str) -> dict[str, tuple[float, str]]:
    """Mean KL and row of each objective in an older table."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and "±" in cells[2]:
            found[re.sub(r" \(.*\)$", "", cells[0])] = float(cells[2].split()[0]), line
    return found


def table(name: str, folder: Path, seeds: int, older: str = "") -> str:
    """Rows from the nearest to the teacher on; those that were not run are of an older table."""
    files = {file.stem: file for file in folder.glob("*.json")}
    found = {stem: json.loads(file.read_text(encoding="utf-8")) for stem, file in files.items()}
    rows, known = [], older_rows(older)

    def of(objective: str) -> list[dict[str, Any]]:
        return [found[f"{objective}-{s}"] for s in range(seeds) if f"{objective}-{s}" in found]

    for objective, _ in losses():
        label = objective if objective in (DEFAULT, LABELS) else f"`{objective}`"
        runs = of(objective)
        if not runs and label in known:
            rows.append(known[label])
            continue
        mine, plain = least(runs), least(of(KD))
        good = sum("error" not in one for one in runs)
        few = f" ({good} of {seeds} seeds)" if 0 < good < seeds else ""
        rows.append(row(label + few, runs, f"{mine / plain:.2f}" if mine and plain else ""))
    student = STUDENTS[name]
    head = f"## {name}: `{student.made_by.replace(str(Path(__file__).parent), 'benchmarks')}`"
    head += f", {student.epochs} epochs\n\n"
    first: dict[str, Any] = next((one for one in found.values() if "error" not in one), {})
    if first:
        head += f"Teacher {first['teacher']:.2%}, before training {first['before']:.2%}, "
        head += f"{seeds} seeds.\n\n"
    head += "| objective | score | KL to the teacher | cost, kd = 1 |\n|---|---|---|---|\n"
    return head + "\n".join(text for _, text in sorted(rows))


def kept(file: Path, work: Callable[[], Any]) -> None:
    """Write what comes of the work, or why it could not be done."""
    try:
        found = work()
    except compressc.CompresscError as error:
        found = {"error": str(error)}
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(file, found, file=sys.stderr, flush=True)


def train(name: str, folder: Path, given: argparse.Namespace) -> None:
    """Every run that was asked for and is not there yet."""
    share, shares = (int(part) for part in given.share.split("/"))
    only = given.only.split(",") if given.only else [objective for objective, _ in losses()]
    wanted = [loss for loss in losses() if loss[0] in only]
    every = [(seed, *loss) for seed in range(given.seeds) for loss in wanted]
    mine = [one for i, one in enumerate(every) if i % shares == share]
    files = {one: folder / f"{one[1]}-{one[0]}.json" for one in mine}
    left = [one for one in mine if not files[one].exists()]
    if not left:
        return
    with tempfile.TemporaryDirectory() as cache:
        bench = Bench(STUDENTS[name], Path(cache), given.device)
        for one in left:
            options = f"{one[2]},epochs={bench.student.epochs}"
            kept(files[one], partial(bench.run, options, one[0]))


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("students", nargs="*", default=list(STUDENTS)[:3])
    parser.add_argument("--out", type=Path, default=Path("build/objectives"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", default="0/1", help="K/N: the K-th of N shares of the runs")
    parser.add_argument("--only", default="", help="these objectives: kd,hidden")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--table", action="store_true", help="print what is there, no more")
    parser.add_argument("--page", type=Path, help="write each table into this page")
    given = parser.parse_args()
    for name in given.students:
        folder = given.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if not given.table:
            train(name, folder, given)
        older = between(given.page, name) if given.page else ""
        made = table(name, folder, given.seeds, older)
        if given.page:
            put(given.page, name, made)
        print(made, end="\n\n")


if __name__ == "__main__":
    main()
