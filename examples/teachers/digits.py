"""Train the digits teacher: a small residual CNN, written as an exported program.

    python examples/teachers/digits.py --out model.pt

Takes seconds on two cores and prints parameters and test accuracy. The data is what
`compressc --data digits` uses, so the test images are the same ones the report is measured on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compressc.data.digits import digits


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm around a skip: f32[b,in,h,w] -> f32[b,out,h/s,w/s]."""

    def __init__(self, width_in: int, width_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.skip = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x))


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution: f32[b,in,h,w] -> f32[b,out,h,w]."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width_in, width_in, 3, 1, 1, groups=width_in, bias=False)
        self.bn1 = nn.BatchNorm2d(width_in)
        self.pointwise = nn.Conv2d(width_in, width_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(y)))


class DigitsNet(nn.Module):
    """Residual CNN for 8x8 digits: f32[b,1,8,8] -> logits f32[b,10]."""

    def __init__(self, width: int = 56) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.stage1 = Residual(width, width)
        self.stage2 = Residual(width, 2 * width, stride=2)
        self.stage3 = Separable(2 * width, 2 * width)
        self.stage4 = Residual(2 * width, 2 * width)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = F.relu(self.bn(self.stem(x)))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        return self.head(self.dropout(x.mean((2, 3))))


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image [b,c,h,w] moved by -1, 0 or 1 pixels in both directions; the edge is repeated."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    dy, dx = torch.randint(0, 3, (2, batch, 1), generator=generator)
    rows, columns = dy + torch.arange(height), dx + torch.arange(width)
    sample = torch.arange(batch).view(-1, 1, 1, 1)
    channel = torch.arange(channels).view(1, -1, 1, 1)
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass(frozen=True)
class Recipe:
    """How a teacher is trained: AdamW, one-cycle schedule, label smoothing."""

    epochs: int
    learning_rate: float
    batch_size: int = 64
    seed: int = 0


def train(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> nn.Module:
    """Fit to images [n,c,h,w], shifted at random, and labels [n]; the model ends in eval mode."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = recipe.epochs * (len(images) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps)
    model.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order.split(recipe.batch_size):
            if len(batch) == recipe.batch_size:
                logits = model(shifted(images[batch], generator))
                optimizer.zero_grad()
                F.cross_entropy(logits, labels[batch], label_smoothing=0.05).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the right class."""
    return float((model(images).argmax(1) == labels).float().mean())


def save(model: nn.Module, example: Tensor, path: Path, *, pickled: bool = False) -> None:
    """Write the model under `path`, whole or not at all.

    Args:
        model: in eval mode.
        example: inputs [n, ...] with n > 1, to trace with; the batch stays open.
        path: where to; the format is told by content, not by the ending.
        pickled: write a pickled module, which compressc loads with --trust-pickle only. It is an
            fx graph of torch's own layers, so that the file loads without this script.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if pickled:
                torch.save(fx.symbolic_trace(model), file)
            else:
                dynamic = ({0: torch.export.Dim("batch")},)
                program = torch.export.export(model, (example,), dynamic_shapes=dynamic)
                torch.export.save(program, file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main(build: Callable[[], nn.Module], description: str, recipe: Recipe) -> None:
    """Command line of a digits teacher: train, score, save."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("model.pt"), help="file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pickle", action="store_true", help="write a pickled module instead")
    arguments = parser.parse_args()

    data = digits()
    assert data.train.labels is not None
    assert data.test.labels is not None
    images = data.train.inputs[0]
    started = time.perf_counter()
    torch.manual_seed(arguments.seed)
    model = build()
    train(model, images, data.train.labels, replace(recipe, seed=arguments.seed))
    seconds = time.perf_counter() - started
    score = accuracy(model, data.test.inputs[0], data.test.labels)
    save(model, images[:4], arguments.out, pickled=arguments.pickle)

    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{type(model).__name__}: {parameters:,} parameters, {len(images)} training images")
    print(f"test accuracy {score:.2%} on {len(data.test)} images, trained in {seconds:.1f} s")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main(DigitsNet, "Train the digits CNN teacher.", Recipe(epochs=12, learning_rate=0.01))
