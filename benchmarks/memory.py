"""What a run holds in memory, in multiples of the model: python benchmarks/memory.py

A net of 1, 10 or 60 million parameters (linear layers and a norm, random weights, small inputs, so
that activations are next to nothing) goes through every pass and into its files. Each size has a
process of its own, which first takes a small net the same way: what the libraries allocate once is
not counted. Beside each peak stands what a plain torch program holds at least for the same work:
the teacher and the result, and for training the gradients and both moments of AdamW, too.

What runtimes and Python take whatever the size (compiled kernels above all: 20 to 50 MB) counts to
every peak, and is several times a model of 4 MB. So between two sizes stands what each further byte
of the model takes. Claim: at most 2.3 for any stage.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import torch
from torch import nn

import compressc
from compressc.collecting import give_back
from compressc.data import Dataset, Split
from compressc.events import Event
from compressc.target import Target

PASSES = "prune(ratio=0.2),lowrank(rank=64),distill(epochs=1,batch_size=16),simplify,quant"
MILLIONS = (1, 10, 60)
INPUT, CLASSES, SAMPLES, BLOCKS = 64, 10, 96, 24
CLAIM = 2.3


class Net(nn.Module):
    """An MLP of equal square layers, about `parameters` numbers in all."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        width = int((parameters / BLOCKS) ** 0.5)
        self.stem = nn.Linear(INPUT, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(BLOCKS))
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


class Peak:
    """Most resident bytes of this process since the last `reset`, beyond those at the first."""

    def __init__(self) -> None:
        give_back()  # what the allocator keeps would hide as much of the peaks
        self.base = self._status("VmRSS")

    def reset(self) -> None:
        """Forget the high-water mark (Linux: proc(5), clear_refs)."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def bytes(self) -> int:
        """The mark."""
        return self._status("VmHWM") - self.base

    def _status(self, key: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        (line,) = [line for line in lines if line.startswith(f"{key}:")]
        return int(line.split()[1]) * 1024


def samples() -> Dataset:
    """Random rows with labels."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=draw)
    part = Split((torch.randn(SAMPLES, INPUT, generator=draw),), labels)
    return Dataset("random", part, part, part)


def peaks(path: Path, out: Path) -> list[tuple[str, int]]:
    """(stage, most bytes while it ran) of loading, each pass and the files."""
    found: list[tuple[str, int]] = []
    peak = Peak()

    def tell(event: Event) -> None:
        ended = {"pass_done": event.facts.get("pass"), "done": "files"}.get(event.kind)
        if event.kind == "pass" and event.facts["number"] == 1:
            ended = "load"
        if ended is not None:
            found.append((ended.partition("(")[0], peak.bytes()))
            peak.reset()

    peak.reset()
    target = Target(batches=())
    compiled = compressc.compile(
        path, PASSES, data=samples(), trust_pickle=True, target=target, cache=None, tell=tell
    )
    compiled.save(out, tell=tell)
    return found


def measure(parameters: int) -> list[tuple[str, int]]:
    """The peaks of one net, in a process where a small one was there before."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        found: list[tuple[str, int]] = []
        for count in (50_000, parameters):
            path = Path(folder) / f"{count}.pt"
            torch.save(Net(count).eval(), path)
            found = peaks(path, Path(folder) / f"out-{count}")
        return found


def least(stage: str) -> float:
    """What a torch program holds, in models: teacher and result; training adds three times more."""
    return {"load": 1.0, "distill": 5.0}.get(stage, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=MILLIONS, help="of parameters")
    arguments = parser.parse_args()
    spawned = multiprocessing.get_context("spawn")
    smaller: tuple[dict[str, int], int] | None = None
    for millions in arguments.millions:
        size = millions * 4_000_000
        with spawned.Pool(1) as pool:
            found = pool.apply(measure, (millions * 1_000_000,))
        print(f"{millions} M parameters, {size / 1e6:.0f} MB: peak over the model's bytes")
        for stage, bytes_ in found:
            print(f"  {stage:10} {bytes_ / size:5.2f}   ({least(stage):.0f} at least)")
        print(f"  highest    {max(bytes_ for _, bytes_ in found) / size:5.2f}", flush=True)
        if smaller:
            before, base = smaller
            slopes = {k: (v - before[k]) / (size - base) for k, v in dict(found).items()}
            highest = max(slopes, key=slopes.__getitem__)
            held = "holds" if slopes[highest] <= CLAIM else "FAILS"
            print(f"  each further byte {slopes[highest]:.2f} ({highest}), at most {CLAIM}: {held}")
        smaller = dict(found), size


if __name__ == "__main__":
    main()
