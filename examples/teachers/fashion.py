"""Train a Fashion-MNIST teacher: a small ResNet, written as an exported program, and the data.

    python examples/teachers/fashion.py --out build/fashion

Fetches Debian's package `dataset-fashion-mnist` (MIT, 31 MB). Writes `model.pt2` and `data/` with
`x_train.npy`, `y_train.npy`, `x_validation.npy`, ..., which `compressc --data` maps. The last 5,000
training images are the validation part. Ten to twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from digits import Residual
from torch import Tensor, nn
from torch.nn import functional as F

PACKAGE = "dataset-fashion-mnist"
VALIDATION = 5000
BATCH = 128


def net() -> nn.Module:
    """f32[b,1,28,28] -> f32[b,10]."""
    stem = nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    stages = [Residual(32, 64, 2), Residual(64, 128, 2), Residual(128, 128)]
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(128, 10))


def official(cache: Path) -> dict[str, np.ndarray]:
    """x f32[n,1,28,28] in 0..1 and y i64[n] of the official parts, train and test."""
    cache = cache.resolve()  # the tools below run in it
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "usr").is_dir():
        subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, check=True)
        (package,) = cache.glob(f"{PACKAGE}_*.deb")
        subprocess.run(["dpkg", "-x", str(package), "."], cwd=cache, check=True)
    folder = cache / "usr/share/datasets/fashion-mnist"
    found: dict[str, np.ndarray] = {}
    for part, file in (("train", "train"), ("test", "t10k")):
        images = gzip.decompress((folder / f"{file}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / f"{file}-labels-idx1-ubyte.gz").read_bytes())[8:]
        pixels = np.frombuffer(images, np.uint8).reshape(-1, 1, 28, 28)
        found[f"x_{part}"] = pixels.astype(np.float32) / 255
        found[f"y_{part}"] = np.frombuffer(labels, np.uint8).astype(np.int64)
    return found


def data(cache: Path) -> dict[str, np.ndarray]:
    """The same, the last training images as the part `validation`."""
    found = official(cache)
    for name in "xy":
        every = found[f"{name}_train"]
        found[f"{name}_train"] = every[:-VALIDATION]
        found[f"{name}_validation"] = every[-VALIDATION:]
    return found


def augmented(x: Tensor, draw: torch.Generator) -> Tensor:
    """Mirrored by a coin, and shifted by up to two pixels."""
    mirrored = (torch.rand(len(x), generator=draw) < 0.5).to(x.device)
    x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    down, right = torch.randint(5, (2,), generator=draw).tolist()
    return F.pad(x, (2, 2, 2, 2))[..., down : down + 28, right : right + 28]


def fit(
    module: nn.Module, parts: dict[str, np.ndarray], epochs: int, seed: int, dtype: torch.dtype
) -> None:
    """AdamW with one cycle of the rate; products of steps in `dtype`, where the module is."""
    device = next(module.parameters()).device
    x, y = (torch.from_numpy(parts[f"{name}_train"]).to(device) for name in "xy")
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=0.05)
    total = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=total)
    module.to(memory_format=torch.channels_last)
    for epoch in range(epochs):
        started = time.perf_counter()
        module.train()
        for index in torch.randperm(len(x), generator=draw).to(device).split(BATCH):
            batch = augmented(x[index], draw).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                answers = module(batch)
            optimizer.zero_grad()
            F.cross_entropy(answers.float(), y[index]).backward()
            optimizer.step()
            schedule.step()
        share = accuracy(module, parts["x_validation"], parts["y_validation"])
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}: validation {share:.2%}, {seconds:.0f} s", flush=True)


@torch.no_grad()
def accuracy(module: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """Share of images that are told right."""
    module.eval()
    device = next(module.parameters()).device
    batches = torch.from_numpy(x).split(500)
    answers = torch.cat([module(batch.to(device)).argmax(1).cpu() for batch in batches])
    return float((answers == torch.from_numpy(y)).float().mean())


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/fashion"))
    parser.add_argument("--cache", type=Path, default=Path("build/packages"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="where the processor has units")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    module, parts = net().to(given.device), data(given.cache)
    dtype = torch.bfloat16 if given.bfloat16 else torch.float32
    fit(module, parts, given.epochs, given.seed, dtype)
    module = module.to("cpu", memory_format=torch.contiguous_format).eval()
    print(f"test {accuracy(module, parts['x_test'], parts['y_test']):.2%}")
    (given.out / "data").mkdir(parents=True, exist_ok=True)
    for name, array in parts.items():
        np.save(given.out / "data" / f"{name}.npy", array)
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    example = torch.from_numpy(parts["x_train"][:4])
    program = torch.export.export(module, (example,), dynamic_shapes=(batch,))
    torch.export.save(program, given.out / "model.pt2")


if __name__ == "__main__":
    main()
