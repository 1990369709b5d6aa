"""Every objective on students that start from a teacher's weights: python benchmarks/objectives.py

Each student learns for equal epochs by each loss, in three seeds, from the same teacher: score and
mean KL(teacher || student) on the test part, mean and spread (largest minus smallest), and the time
of a training beside that of plain `kd`. `labels alone` is `ce`; an objective that reads answers
stands in the place of `kd` in `0.1*ce + 0.9*kd`; one that reads inner values or relations stands
beside it, at the weight that `weights=auto` gives it.

Runs are kept in `--out` one by one: the same command goes on where it was. `digits_cnn` and
`digits_vit` need no network; `fashion` needs examples/teachers/fashion.py to have been run.
`--table` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import compressc
from compressc.data import open_dataset
from compressc.distillation import Objective
from compressc.plugins import OBJECTIVES, find
from compressc.spec import load_class

LABELS, KD = "labels alone", "kd"


@dataclass(frozen=True)
class Student:
    """What learns.

    Attributes:
        model: the teacher's file.
        data: as `--data` has it.
        made_by: the passes that make it.
        epochs: of each training.
    """

    model: str
    data: str
    made_by: str
    epochs: int


class Small(nn.Sequential):
    """Another architecture: f32[b,1,8,8] -> f32[b,10]."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        first = [nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU()]
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(512, 10))


FACTORY = f"student(factory='{Path(__file__).resolve()}:Small')"
STUDENTS = {
    "digits_cnn": Student("model.pt", "digits", "prune(ratio=0.5)", 5),
    "digits_vit": Student("vit.pt", "digits", "student(depth=0.67),prune(ratio=0.2)", 10),
    "digits_factory": Student("model.pt", "digits", FACTORY, 10),
    "fashion": Student("build/fashion/model.pt2", "build/fashion/data/", "prune(ratio=0.5)", 2),
}


def losses() -> Iterator[tuple[str, str]]:
    """(objective, options of `distill`) of each row."""
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


def run(student: Student, options: str, seed: int, cache: Path) -> dict[str, Any]:
    """One training, and how the student does."""
    passes = f"{student.made_by},distill({options},epochs={student.epochs})"
    compiled = compressc.compile(student.model, passes, data=student.data, seed=seed, cache=cache)
    test = open_dataset(student.data).test.take(10_000)
    teacher, ours = compressc.ir.lower(compiled.teacher).eval(), compiled.module()
    answers = []
    with torch.no_grad():
        for part in test.batches(500):
            answers.append([module(*part.inputs).log_softmax(1) for module in (teacher, ours)])
    theirs, mine = (torch.cat(side) for side in zip(*answers, strict=True))
    report = compiled.report
    return {
        "score": report.passes[-1].accuracy,
        "before": report.passes[-2].accuracy,
        "teacher": report.teacher.accuracy,
        "kl": float(F.kl_div(mine, theirs, reduction="batchmean", log_target=True)),
        "seconds": report.passes[-1].seconds,
    }


def table(name: str, found: dict[str, dict[str, Any]], seeds: int) -> str:
    """Rows from the nearest to the teacher on."""
    rows = []
    kd = [found[f"{KD}/{seed}"]["seconds"] for seed in range(seeds) if f"{KD}/{seed}" in found]
    for objective, _ in losses():
        runs = [found[f"{objective}/{s}"] for s in range(seeds) if f"{objective}/{s}" in found]
        good = [one for one in runs if "error" not in one]
        if not good:
            why = runs[0]["error"] if runs else "not run"
            rows.append((float("inf"), f"| `{objective}` | {why} | | |"))
            continue
        scores, kls = ([one[key] for one in good] for key in ("score", "kl"))
        cost = median(one["seconds"] for one in good) / median(kd) if kd else float("nan")
        label = objective if objective == LABELS else f"`{objective}`"
        rows.append(
            (
                mean(kls),
                f"| {label} | {mean(scores):.2%} ± {(max(scores) - min(scores)) / 2:.2%} "
                f"| {mean(kls):.4f} ± {(max(kls) - min(kls)) / 2:.4f} | {cost:.2f} |",
            )
        )
    first = next((one for one in found.values() if "error" not in one), {})
    head = f"### {name}: `{STUDENTS[name].made_by}`, {STUDENTS[name].epochs} epochs\n\n"
    if first:
        head += f"Teacher {first['teacher']:.2%}, before training {first['before']:.2%}.\n\n"
    head += "| objective | score | KL to the teacher | time, kd = 1 |\n|---|---|---|---|\n"
    return head + "\n".join(row for _, row in sorted(rows))


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("students", nargs="*", default=list(STUDENTS)[:3])
    parser.add_argument("--out", type=Path, default=Path("build/objectives"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.students:
        file = given.out / f"{name}.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        with tempfile.TemporaryDirectory() as cache:
            for seed in range(0 if given.table else given.seeds):
                for objective, options in losses():
                    key = f"{objective}/{seed}"
                    if key in found:
                        continue
                    try:
                        found[key] = run(STUDENTS[name], options, seed, Path(cache))
                    except compressc.CompresscError as error:
                        found[key] = {"error": str(error)}
                    file.write_text(json.dumps(found, indent=1), encoding="utf-8")
                    print(name, key, found[key], file=sys.stderr, flush=True)
        print(table(name, found, given.seeds), end="\n\n")


if __name__ == "__main__":
    main()
