"""A tiny problem of two classes, its teacher, and a study of it that takes no time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compressc.data import Dataset, Split
from compressc.study import Study, open_study


def problem(labelled: bool = True) -> Dataset:
    """300 points of three classes in four dimensions."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=draw)
    y = torch.stack([x[:, 0], x[:, 1], -x[:, 0] - x[:, 1]], 1).argmax(1)
    parts = [
        Split((x[a:b],), y[a:b] if labelled else None) for a, b in ((0, 200), (0, 64), (200, 300))
    ]
    return Dataset("points", *parts)


def mlp() -> nn.Module:
    """A teacher that is right most of the time: the rule itself, with some noise."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    rule = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [-1, -1, 0, 0]])
    with torch.no_grad():
        net[0].weight.mul_(0.3)[:3] = rule
        net[0].bias.zero_()
        net[2].weight.mul_(0.3)[:, :3] = 2 * torch.eye(3)
    return net.eval()


def study(seeds: int = 2, labelled: bool = True, cache: Path | None = None) -> Study:
    """Of it."""
    return open_study(mlp(), data=problem(labelled), seeds=seeds, cache=cache)
