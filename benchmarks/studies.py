"""The studies of docs/howto-study.md: python benchmarks/studies.py [digits] [fashion] [--only ...]

For each data set `compressc study` of fidelity, temperature, bias and order, in three seeds; what
follows is printed, and the records and pages are kept in `--out`. `digits` needs `model.pt` of
examples/teachers. `fashion` fetches Debian's package `dataset-fashion-mnist` first, takes 6,000
images to learn from, 1,000 to choose by and 2,000 to be judged by, each at half its size (14x14,
means of four pixels), and trains a small CNN on them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.cli import main as compressc
from compressc.data.digits import digits

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples/teachers"))

#: Images of the small Fashion-MNIST, by part.
SIZES = {"train": 6000, "validation": 1000, "test": 2000}


class Net(nn.Sequential):
    """Of two convolutions: f32[b,1,s,s] -> f32[b,10]."""

    def __init__(self, size: int, wide: int) -> None:
        torch.manual_seed(0)
        first = [nn.Conv2d(1, wide, 3, 1, 1), nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(wide, 2 * wide, 3, 1, 1), nn.BatchNorm2d(2 * wide), nn.ReLU()]
        features = 2 * wide * (size // 2) ** 2
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(features, 10))


def small_digits() -> nn.Module:
    """A student of five thousand parameters."""
    return Net(8, 8)


def small_fashion() -> nn.Module:
    """A student of nine thousand parameters."""
    return Net(14, 8)


def fashion(folder: Path) -> Path:
    """The small Fashion-MNIST as `data/`, and a teacher of it as `model.pt2`."""
    import fashion as example

    model = folder / "model.pt2"
    if model.exists():
        return model
    every, data = example.data(Path("build/packages")), {}
    for part, size in SIZES.items():
        images = torch.from_numpy(every[f"x_{part}"][:size])
        data[f"x_{part}"] = F.avg_pool2d(images, 2).sub(0.286).div(0.32)
        data[f"y_{part}"] = torch.from_numpy(every[f"y_{part}"][:size])
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, values in data.items():
        np.save(folder / "data" / f"{name}.npy", values.numpy())
    net = trained(Net(14, 48), data["x_train"], data["y_train"])
    rows = torch.export.Dim("b", min=1)
    example = (data["x_train"][:4],)
    torch.export.save(torch.export.export(net, example, dynamic_shapes=({0: rows},)), model)
    return model


def trained(net: nn.Module, images: Tensor, labels: Tensor, epochs: int = 12) -> nn.Module:
    """By labels, in eval mode."""
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.01)
    steps = epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        every = torch.randperm(len(images), generator=order)
        for rows in every[: len(images) // 128 * 128].split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(images[rows]), labels[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def slices(images: Tensor, path: Path) -> str:
    """Test images in three groups by how much ink they have."""
    ink = images.flatten(1).mean(1).numpy()
    np.savez(path, ink=np.digitize(ink, np.quantile(ink, [1 / 3, 2 / 3])))
    return str(path)


def asked(student: str, folder: Path, images: Tensor) -> dict[str, list[str]]:
    """All four by name, with their options; that of bias once more without a training."""
    small = f"student(factory='benchmarks/studies.py:{student}')"
    taught = f"{small},distill(loss='0.1*ce + 0.9*kd',epochs=10)"
    alone = f"{small},distill(loss=ce,epochs=10)"
    at = f"{small},distill(loss='0.1*ce + 0.9*kd(T={{T}})',epochs=10)"
    cut = "prune(ratio=0.7,refit=false)"
    groups = slices(images, folder / "slices.npz")
    return {
        "fidelity": ["-p", taught, "-p", alone],
        "temperature": ["-p", at, "--at", "1,2,4,8,16"],
        "bias": ["-p", f"{cut},distill(epochs=3)", "--slices", groups],
        "bias-untaught": ["-p", cut, "--slices", groups],
        "order": ["-p", f"{cut},lowrank(energy=0.8),distill(epochs=3)"],
    }


def study(model: str, data: str, wanted: dict[str, list[str]], folder: Path) -> None:
    """Run those that were not run before."""
    for name, options in wanted.items():
        out = folder / name
        if (out / "study.json").exists():
            continue
        print(f"== {folder.name} {name}", flush=True)
        words = ["study", name.partition("-")[0], model, "--data", data, *options, "-o", str(out)]
        if compressc(words):
            raise SystemExit(1)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["digits", "fashion"])
    parser.add_argument("--only", nargs="+", help="of fidelity, temperature, bias, order")
    parser.add_argument("--out", type=Path, default=Path("build/studies"))
    given = parser.parse_args()
    for name in given.names:
        folder = given.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "digits":
            test = digits().test
            images = test.take(len(test)).inputs[0]
            model, data = "model.pt", "digits"
        else:
            model, data = str(fashion(folder)), str(folder / "data")
            images = torch.from_numpy(np.load(folder / "data/x_test.npy"))
        found = asked(f"small_{name}", folder, images)
        only = given.only or list(found)
        study(model, data, {k: v for k, v in found.items() if k.partition("-")[0] in only}, folder)


if __name__ == "__main__":
    main()
