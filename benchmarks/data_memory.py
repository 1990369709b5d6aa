"""Does memory grow with the data? A run on a large file, against the same run on a few samples.

Each run is a process of its own: `compressc model.pt2 --passes ... --data folder`. The peak of its
memory is VmHWM, the resident set; not what `wait4` tells, which counts the parent before `exec`.
That on 200,000 x 784 floats in a `.npy` file, 627 MB, is held against that of the same command on
1,024 samples: no more than one batch, the calibration and the example take together. Claim: at most
1.15 times.

    python benchmarks/data_memory.py [--samples 200000] [--passes prune,quant] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

FEATURES, CLASSES, FEW, CLAIM = 784, 10, 1024, 1.15


def write(folder: Path, samples: int) -> Path:
    """`x.npy` and `y.npy` of that many samples, written in blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (samples, FEATURES))
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, FEATURES))
    y = np.arange(samples) % CLASSES
    for start in range(0, samples, 4096):
        part = y[start : start + 4096]
        noise = rng.standard_normal((len(part), FEATURES), dtype=np.float32)
        x[start : start + len(part)] = noise + centres[part]
    x.flush()
    np.save(folder / "y.npy", y)
    return folder


def model(folder: Path, data: Path) -> Path:
    """A multi-layer perceptron, trained for a moment, as an exported program."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)
    )
    x = torch.from_numpy(np.load(data / "x.npy", mmap_mode="r")[:FEW].copy())
    y = torch.from_numpy(np.load(data / "y.npy")[:FEW])
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    program = torch.export.export(
        net.eval(), (x[:4],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    path = folder / "model.pt2"
    torch.export.save(program, path)
    return path


#: What the process runs: the command, and then its own peak.
CHILD = """
import sys
from compressc.cli import main
code = main(sys.argv[1:])
status = open("/proc/self/status").read()
print("VmHWM", status.split("VmHWM:")[1].split()[0])
sys.exit(code)
"""


def peak(path: Path, data: Path, passes: str, folder: Path) -> tuple[float, float]:
    """Peak of the memory of one run in MB, and its seconds."""
    command = [sys.executable, "-c", CHILD, str(path), "--passes", passes, "--data", str(data)]
    command += ["-o", str(folder / "out"), "--emit", "pt2", "--batches", "", "--no-cache", "-q"]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"the run ended with {done.returncode}")
    return int(done.stdout.split()[-1]) / 1024, time.perf_counter() - started


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--passes", default="prune,quant")
    parser.add_argument("--folder", type=Path, help="Where the data are made; default: temporary.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        few, many = write(folder / "few", FEW), write(folder / "many", given.samples)
        path = model(folder, few)
        small, quick = peak(path, few, given.passes, folder)
        large, slow = peak(path, many, given.passes, folder)
        size = (many / "x.npy").stat().st_size / 2**20
        print(f"passes {given.passes}")
        print(f"{FEW:>9,} samples: peak {small:6.0f} MB in {quick:5.1f} s")
        print(f"{given.samples:>9,} samples, {size:.0f} MB: peak {large:6.0f} MB in {slow:5.1f} s")
        ratio = large / small
        print(f"ratio {ratio:.3f}, claim at most {CLAIM}: {'holds' if ratio <= CLAIM else 'FAILS'}")


if __name__ == "__main__":
    main()
