"""Is half of MiniLM as good, and faster? python benchmarks/student.py --cache .recovery

`student(depth=0.5)` keeps blocks 0, 2 and 4 of 6, DistilBERT's rule, and `distill` trains what is
left on 1,000 WordNet glosses (`benchmarks/recovery.py` has the models and data). Accuracy is by the
labels of 500 others; times are of the modules in PyTorch on one thread, in turns, in one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from recovery import answers, classifier, fetch
from torch import Tensor, nn

import compressc
from compressc.data import Split

#: What the student must keep of the teacher's accuracy, and how much faster it must be.
LEAST_SHARE, LEAST_SPEED = 0.97, 1.6
TURNS, ROWS = 15, 32


def accuracy(module: nn.Module, test: Split) -> float:
    assert isinstance(test.labels, Tensor)
    return float((answers(module, test).argmax(1) == test.labels).float().mean())


@torch.no_grad()
def speed(slow: nn.Module, fast: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Ratio of the fastest times of both, taken in turns."""
    best = [float("inf"), float("inf")]
    for _ in range(TURNS):
        for place, module in enumerate((slow, fast)):
            start = time.perf_counter()
            module(*inputs)
            best[place] = min(best[place], time.perf_counter() - start)
    return best[0] / best[1]


def main() -> None:
    """Print one row; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".recovery"))
    parser.add_argument("--passes", default="student(depth=0.5),distill(epochs=4)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fetch(options.cache)
    case = classifier(options.cache)
    with tempfile.TemporaryDirectory() as folder:
        made = compressc.compile(
            case.teacher, options.passes, data=case.data, seed=options.seed, cache=folder
        )
    student, test = made.module(), case.data.test
    theirs, ours = accuracy(case.teacher, test), accuracy(student, test)
    faster = speed(case.teacher, student, test.take(ROWS).inputs)
    for _, text in made.passes[0].notes:
        print(text)
    print("| teacher | student | share | faster |\n|---|---|---|---|")
    print(f"| {theirs:.1%} | {ours:.1%} | {ours / theirs:.1%} | {faster:.2f}x |")
    raise SystemExit(0 if ours >= LEAST_SHARE * theirs and faster >= LEAST_SPEED else 1)


if __name__ == "__main__":
    main()
