"""The README's claim over three seeds: python benchmarks/digits.py model.pt

For each seed: accuracy on the 540 held-out digits, bytes against the fp32 teacher in the same
format, and the speed-up in the same runtime at one thread (interleaved; median of paired rounds).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import compressc
from compressc.report import Record

SEEDS = (0, 1, 2)
LISTS = ("prune(ratio=0.5),quant", "prune(ratio=0.5),distill,quant")
FORMATS = ("onnx", "openvino")


def measure(model: str, passes: str, seed: int, batches: tuple[int, ...]) -> Record:
    """One run, from scratch."""
    compiled = compressc.compile(model, passes, data="digits", seed=seed, cache=None)
    with tempfile.TemporaryDirectory() as folder:
        return compiled.save(Path(folder) / "out", formats=FORMATS, batches=batches)


def main(model: str) -> None:
    """Print a row per seed, pass list and format."""
    print("| seed | passes | format | teacher % | result % | smaller | faster at 1 / 64 / 256 |")
    print("|---|---|---|---|---|---|---|")
    for seed in SEEDS:
        for passes in LISTS:
            batches = (1, 64, 256) if "distill" in passes else ()
            record = measure(model, passes, seed, batches)
            for file in record.files:
                speeds = " / ".join(f"{entry.speedup:.2f}x" for entry in file.latency) or "-"
                smaller = (file.teacher_bytes or 0) / file.bytes
                teacher, result = record.teacher.accuracy or 0.0, file.accuracy or 0.0
                print(
                    f"| {seed} | {passes} | {file.format} | {teacher:.2%} | {result:.2%} "
                    f"| {smaller:.1f}x | {speeds} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "model.pt")
