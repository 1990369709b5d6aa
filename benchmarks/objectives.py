"""Every objective on students that start from a teacher's weights: python benchmarks/objectives.py

Each student learns for equal epochs by each loss, in three seeds, from the same teacher: score and
mean KL(teacher || student) on the test part, mean and half of the range, and the time of a training
beside that of plain `kd`. `as it comes` is `distill` with no loss named; `labels alone` is `ce`; an
objective that reads answers stands in the place of `kd` in `0.1*ce + 0.9*kd`; one that reads inner
values or relations stands beside it, at the weight that `weights=auto` gives it.

Runs are kept in `--out`, a file each: the same command goes on where it was, and several may work
side by side (`--share 0/4`, ...). The students of digits need no network, but `model.pt` and
`vit.pt` of examples/teachers; `fashion` needs examples/teachers/fashion.py to have been run,
`minilm` fetches what benchmarks/recovery.py does. `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
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


FACTORY = f"student(factory='{Path(__file__).resolve()}:Small')"
FASHION = partial(open_session, "build/fashion/model.pt2", data="build/fashion/data/")
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
    "fashion": Student(FASHION, "prune(ratio=0.5,refit=false)", 2),
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

    def run(self, options: str, seed: int) -> dict[str, Any]:
        """One training, and how the student does."""
        text = f"{self.student.made_by},distill({options},epochs={self.student.epochs})"
        target = Target(backends=(), batches=(), device=self.device)
        before: list[float] = []

        def done(result: Any) -> None:
            before.append(self.score(self.answers(result.graph)))

        passes, cache = parse_passes(text), PassCache(self.cache)
        pipeline = Pipeline(
            passes, self.session.data, seed, cache, task=self.session.task, target=target
        )
        last = pipeline.run(self.session.loaded.graph, done)[-1]
        mine = self.answers(last.graph)
        return {
            "score": self.score(mine),
            "before": before[-2],
            "teacher": self.score(self.theirs),
            "kl": float(F.kl_div(mine, self.theirs, reduction="batchmean", log_target=True)),
            "seconds": last.seconds,
            "device": self.device,
        }


def row(label: str, runs: list[dict[str, Any]], kd: float) -> tuple[float, str]:
    """(mean KL, a row of the table)."""
    good = [one for one in runs if "error" not in one]
    if not good:
        why = runs[0]["error"].partition(" (got")[0] if runs else "not run"
        return float("inf"), f"| {label} | {why} | | |"
    scores, kls = ([one[key] for one in good] for key in ("score", "kl"))
    cost = median(one["seconds"] for one in good) / kd
    cells = [
        f"{mean(scores):.2%} ± {(max(scores) - min(scores)) / 2:.2%}",
        f"{mean(kls):.4f} ± {(max(kls) - min(kls)) / 2:.4f}",
        f"{cost:.2f}",
    ]
    return mean(kls), f"| {label} | {' | '.join(cells)} |"


def table(name: str, found: dict[str, dict[str, Any]], seeds: int) -> str:
    """Rows from the nearest to the teacher on."""
    runs = {
        objective: [found[f"{objective}-{s}"] for s in range(seeds) if f"{objective}-{s}" in found]
        for objective, _ in losses()
    }
    kd = median([one["seconds"] for one in runs[KD]] or [float("nan")])
    rows = [row(n if n in (DEFAULT, LABELS) else f"`{n}`", some, kd) for n, some in runs.items()]
    student = STUDENTS[name]
    head = f"### {name}: `{student.made_by.split('=')[0]}`"
    if "factory" not in student.made_by:
        head = f"### {name}: `{student.made_by}`"
    head += f", {student.epochs} epochs\n\n"
    first = next((one for one in found.values() if "error" not in one), {})
    if first:
        head += f"Teacher {first['teacher']:.2%}, before training {first['before']:.2%}, "
        head += f"{max(len(some) for some in runs.values())} seeds.\n\n"
    head += "| objective | score | KL to the teacher | time, kd = 1 |\n|---|---|---|---|\n"
    return head + "\n".join(text for _, text in sorted(rows))


def work(name: str, folder: Path, seeds: int, share: tuple[int, int], device: str) -> None:
    """Every run of this share that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    every = [(seed, *loss) for seed in range(seeds) for loss in losses()]
    mine = [one for i, one in enumerate(every) if i % share[1] == share[0]]
    files = {one: folder / f"{one[1]}-{one[0]}.json" for one in mine}
    left = [one for one in mine if not files[one].exists()]
    if not left:
        return
    with tempfile.TemporaryDirectory() as cache:
        bench = Bench(STUDENTS[name], Path(cache), device)
        for one in left:
            seed, objective, options = one
            try:
                found = bench.run(options, seed)
            except compressc.CompresscError as error:
                found = {"error": str(error)}
            files[one].write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(name, objective, seed, found, file=sys.stderr, flush=True)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("students", nargs="*", default=list(STUDENTS)[:3])
    parser.add_argument("--out", type=Path, default=Path("build/objectives"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", default="0/1", help="K/N: the K-th of N shares of the runs")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    share, shares = (int(part) for part in given.share.split("/"))
    for name in given.students:
        folder = given.out / name
        if not given.table:
            work(name, folder, given.seeds, (share, shares), given.device)
        files = sorted(folder.glob("*.json"))
        found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
        print(table(name, found, given.seeds), end="\n\n")


if __name__ == "__main__":
    main()
