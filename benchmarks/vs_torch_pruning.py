"""Half of the measured time: python benchmarks/vs_torch_pruning.py

Fashion-MNIST and the teacher of examples/teachers/fashion.py (run that first). At a share of the
time in ONNX Runtime, for each batch size: ours with widths chosen by latency, ours with one ratio
for all widths, and Torch-Pruning by hand, its ratio bisected until the exported file takes that
share. Then `--epochs` of distillation, the engine's for ours and the loop of vs_by_hand.py for
theirs, with the same seeds; 0 shows the accuracy right after the cut. All times are of the files in
ONNX Runtime at one thread, each beside the teacher's.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
import torch_pruning
from torch import nn

import compressc
from compressc.data import open_dataset
from compressc.measure.layer_times import time_ratio
from compressc.target import Target
from compressc.training import reestimate

# In front: fashion wants the digits.py beside it, not the one beside this file.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "teachers"))
import fashion
from vs_by_hand import Parts, distilled

#: Ratios of theirs that are tried, and how near the share is near enough.
TRIES, NEAR = 7, 0.015
STEP = 8
#: By what `--only` calls it: the row's name, and the pass.
OURS = {
    "latency": ("ours, by latency", "prune(latency={share},batch={batch})"),
    "sensitivity": (
        "ours, by sensitivity",
        "prune(latency={share},batch={batch},allocation=sensitivity)",
    ),
    "uniform": ("ours, one ratio", "prune(latency={share},batch={batch},allocation=uniform)"),
}
THEIRS = "hand"


def cut(teacher: nn.Module, ratio: float) -> nn.Module:
    """Torch-Pruning at one ratio for all layers but the last, by the L2 norm of groups."""
    student = copy.deepcopy(teacher)
    (head,) = (m for m in student.modules() if isinstance(m, nn.Linear))
    torch_pruning.pruner.MetaPruner(
        student,
        torch.rand(4, 1, 28, 28),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=STEP,
        ignored_layers=[head],
    ).step()
    return student


def written(module: nn.Module, path: Path) -> Path:
    """An ONNX file of a module, open in its batch."""
    shapes = ({0: torch.export.Dim("batch")},)
    example = (torch.rand(4, 1, 28, 28),)
    program = torch.onnx.export(module.eval(), example, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(path)
    return path


def share_of(full: Path, path: Path, batch: int) -> float:
    """What a file takes beside another."""
    inputs = [{"dtype": "float32", "shape": [batch, 1, 28, 28]}]
    rows = [{"file": str(file), "inputs": inputs, "whole": True} for file in (full, path)]
    return time_ratio(*rows, itemgetter("file"), 1, rounds=61, seconds=6.0)


def by_hand(teacher: nn.Module, full: Path, share: float, batch: int, folder: Path) -> nn.Module:
    """Bisected until the file takes that share of the time; the nearest there is."""
    low, high, best = 0.0, 0.9, (9.0, teacher)
    for _ in range(TRIES):
        ratio = (low + high) / 2
        student = cut(teacher, ratio)
        got = share_of(full, written(student, folder / "tried.onnx"), batch)
        best = min(best, (abs(got - share), student), key=itemgetter(0))
        if best[0] <= NEAR * share:
            break
        low, high = (ratio, high) if got > share else (low, ratio)
    return best[1]


def row(  # noqa: PLR0913
    name: str, module: nn.Module, file: Path, full: Path, batch: int, parts: Parts
) -> None:
    """Accuracy on the test part and the measured share of the time."""
    right = fashion.accuracy(module, parts["x_test"], parts["y_test"])
    share = share_of(full, file, batch)
    count = sum(p.numel() for p in module.parameters())
    print(f"| {name} | {batch} | {right:.2%} | {share:.3f} | {count:,} |", flush=True)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/fashion"))
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default=",".join([*OURS, THEIRS]), help="these rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts = {path.stem: np.load(path) for path in (given.folder / "data").glob("*.npy")}
    data = open_dataset(str(given.folder / "data"))
    teacher = fashion.net()
    teacher.load_state_dict(torch.export.load(given.folder / "model.pt2").state_dict)
    teacher.eval()
    right = fashion.accuracy(teacher, parts["x_test"], parts["y_test"])
    print(f"teacher {right:.2%}; {given.epochs} epochs\n")
    print("| how | batch | accuracy | time | parameters |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        full = written(teacher, folder / "full.onnx")
        for batch in (int(text) for text in given.batches.split(",")):
            for seed in given.seeds:
                own(given, data, batch, seed, full, folder, parts)
                if THEIRS not in given.only.split(","):
                    continue
                student = by_hand(teacher, full, given.share, batch, folder)
                if given.epochs:
                    distilled(student, teacher, parts, given.epochs, seed)
                else:
                    reestimate(student, [data.calibration.take(1024).inputs])
                file = written(student, folder / "theirs.onnx")
                row("Torch-Pruning by hand", student, file, full, batch, parts)


def own(  # noqa: PLR0913
    given: argparse.Namespace,
    data: object,
    batch: int,
    seed: int,
    full: Path,
    folder: Path,
    parts: Parts,
) -> None:
    """Ours, each way of sharing widths out."""
    target = Target(backends=("onnx",), batches=(batch,))
    for name, text in (OURS[key] for key in OURS if key in given.only.split(",")):
        passes = text.format(share=given.share, batch=batch)
        passes += f",distill(epochs={given.epochs})" if given.epochs else ""
        made = compressc.compile(
            str(given.folder / "model.pt2"),
            passes,
            data=data,
            augment="flip,shift(pixels=2)",
            seed=seed,
            target=target,
        )
        module = made.module()
        row(name, module, written(module, folder / "ours.onnx"), full, batch, parts)
        facts = made.passes[0].records["latency"]
        print(f"  predicted {facts['predicted']:.3f}, measured {facts['measured']:.3f}", flush=True)


if __name__ == "__main__":
    main()
