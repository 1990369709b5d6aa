"""Networks and data for the tests of `quant`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from compressc.data import Dataset, Split
from compressc.frontend import export_module, import_program
from compressc.ir import Graph


class Residual(nn.Module):
    """Convolutions, a residual addition, pooling and a head, on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.a = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.b = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10]."""
        x = F.relu(self.stem(x))
        x = F.relu(x + self.a(x))
        x = F.relu(self.b(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Tied(nn.Module):
    """Two linear layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 64]."""
        return self.second(F.relu(self.first(x.flatten(1))))


class Words(nn.Module):
    """Next words: the head shares the table where it is told to."""

    def __init__(self, shared: bool = True) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(100, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 100, bias=False)
        if shared:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores [n, length, 100] of ids [n, length]."""
        return self.head(F.relu(self.body(self.table(ids))))


class Places(nn.Module):
    """One projection of values and of a table of places, which no input reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.out = nn.Linear(32, 32), nn.Linear(8, 4)
        self.places = nn.Parameter(torch.randn(8, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 4] of [n, 32]."""
        return self.out(self.key(x) @ self.key(self.places).T)


class Levels(nn.Module):
    """One convolution at two scales, with a batch norm for each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 4, positions of both levels]."""
        x = F.relu(self.stem(x))
        levels = zip(self.norms, (x, F.max_pool2d(x, 2)), strict=True)
        maps = [self.out(F.relu(norm(self.shared(level)))) for norm, level in levels]
        return torch.cat([m.flatten(2) for m in maps], 2)


def trained(data: Dataset) -> nn.Module:
    """`Residual` after a few seconds of training."""
    torch.manual_seed(0)
    module = Residual()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    draw = torch.Generator().manual_seed(0)
    for _ in range(6):
        for index in torch.randperm(len(data.train), generator=draw).split(64):
            batch = data.train.select(index)
            loss = F.cross_entropy(module(*batch.inputs), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return module.eval()


def imported(module: nn.Module, example: tuple[torch.Tensor, ...], name: str = "net") -> Graph:
    """The raised graph of a module."""
    return import_program(export_module(module, example), name)


def random_data(*inputs: torch.Tensor) -> Dataset:
    """The same unlabelled samples in all parts."""
    part = Split(inputs)
    return Dataset("random", part, part, part)
