"""What the steps of a training bring, and what `--effort` makes of it: python benchmarks/effort.py

    python benchmarks/effort.py [training ...]     quick, normal, "400 steps": these alone

Students that lost a little, half and most of their weights are trained for 100, 200, ... steps,
each training by itself (its rate falls to zero at its own end), and by `effort=quick`, `normal` and
`thorough`, in three seeds: score and mean KL(teacher || student) on the test part, mean and half of
the range, and the processor's seconds. `(as they are)` is thorough without images that are moved.

Runs are kept in `--out`, a file each, as those of benchmarks/objectives.py are, which has the
teachers, too. `--table` prints what is there, `--page docs/effort.md` writes it into the page.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from objectives import STUDENTS, Bench, Student, kept
from page import put

#: Of the optimizer, where `effort` does not choose them.
STEPS = (100, 200, 400, 800, 1600, 3200, 6400)
EFFORTS = ("quick", "normal", "thorough")
MARK = "effort"


@dataclass(frozen=True)
class Cut:
    """A student, and the batches that `effort` takes for its data.

    Attributes:
        student: its teacher and its data; the passes are `made_by`.
        made_by: what it lost is the cut of it.
        batch_size: of each step.
        most: steps that are tried.
    """

    student: Student
    made_by: str
    batch_size: int
    most: int = STEPS[-1]


CNN, VIT = STUDENTS["digits_cnn"], STUDENTS["digits_vit"]
CUTS = {
    "digits CNN, a quarter cut": Cut(CNN, "prune(ratio=0.25,refit=false)", 16),
    "digits CNN, half cut": Cut(CNN, "prune(ratio=0.5,refit=false)", 16),
    "digits CNN, four fifths cut": Cut(CNN, "prune(ratio=0.8,refit=false)", 16),
    "digits ViT, half cut": Cut(VIT, "prune(ratio=0.5,refit=false)", 16),
    "digits ViT, a third of the blocks": Cut(VIT, "student(depth=0.67)", 16),
}


def trainings(cut: Cut) -> Iterator[tuple[str, str]]:
    """(name, options of `distill`)."""
    for steps in STEPS:
        if steps <= cut.most:
            yield f"{steps:,} steps", f"steps={steps},batch_size={cut.batch_size}"
    for effort in EFFORTS:
        yield effort, f"effort={effort}"
    yield "thorough (as they are)", "effort=thorough,augment=''"


def file_of(folder: Path, name: str, training: str, seed: int) -> Path:
    """Where a run is kept."""
    place = folder / name.replace(",", "").replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{training}-{seed}.json"


def train(name: str, folder: Path, seed: int, only: Collection[str]) -> None:
    """Every run of a seed that was asked for and is not there yet."""
    cut = CUTS[name]
    files = {
        options: file_of(folder, name, training, seed)
        for training, options in trainings(cut)
        if not only or training in only
    }
    left = {options: file for options, file in files.items() if not file.exists()}
    if not left:
        return
    with tempfile.TemporaryDirectory() as cache:
        bench = Bench(replace(cut.student, made_by=cut.made_by), Path(cache))
        for options, file in left.items():
            kept(file, partial(bench.run, options, seed))


def table(folder: Path, seeds: int) -> str:
    """Of all that is there."""
    lines = [
        "| student | training | score | KL to the teacher | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, cut in CUTS.items():
        for training, _ in trainings(cut):
            files = [file_of(folder, name, training, seed) for seed in range(seeds)]
            runs = [json.loads(f.read_text(encoding="utf-8")) for f in files if f.exists()]
            if runs:
                few = "" if len(runs) == seeds else f" ({len(runs)} of {seeds} seeds)"
                lines.append(f"| {name} | {training}{few} | {' | '.join(cells(runs))} |")
    return "\n".join(lines)


def cells(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Score, KL, seconds."""
    for key, form in (("score", ".2%"), ("kl", ".4f")):
        values = [one[key] for one in runs]
        around = f" ± {(max(values) - min(values)) / 2:{form}}" if len(values) > 1 else ""
        yield f"{mean(values):{form}}{around}"
    yield f"{min(one['seconds'] for one in runs):.0f}"


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainings", nargs="*", help="these alone")
    parser.add_argument("--out", type=Path, default=Path("build/effort"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print what is there, no more")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    given = parser.parse_args()
    if not given.table:
        for seed, name in product(range(given.seeds), CUTS):
            train(name, given.out, seed, given.trainings)
    made = table(given.out, given.seeds)
    if given.page:
        put(given.page, MARK, made)
    print(made)


if __name__ == "__main__":
    main()
