"""How long the groups of deep models take: python benchmarks/groups.py

What must be cut together in residual convolutional networks and vision transformers of growing
depth: our coupling of the exported graph beside torch-pruning's dependency graph and all its
groups, in turns in one process, least processor time of three. Exporting and raising is told apart:
a run of compressc does it once for all passes; torch-pruning traces within its own time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compressc.analysis import couple, symbolize_widths
from compressc.testing import export_graph

WIDTH, HEADS, ROUNDS = 16, 4, 3


class Residual(nn.Module):
    """Two convolutions beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH)
        self.conv2, self.norm2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """f32[b,c,h,w] of the same shape."""
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class Block(nn.Module):
    """Attention and an MLP, as a vision transformer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.v, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """f32[b,s,c] of the same shape."""
        y = self.norm1(x)
        q, k, v = (
            layer(y).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    """Patches, blocks and a head."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images f32[b,3,16,16] to scores f32[b,10]."""
        y: Tensor = self.patches(x).flatten(2).transpose(1, 2)
        out: Tensor = self.head(self.norm(self.blocks(y)).mean(1))
        return out


def resnet(layers: int) -> nn.Module:
    """Half as many blocks as convolutional layers."""
    stem = [nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10)]
    return nn.Sequential(*stem, *(Residual() for _ in range(layers // 2)), *head)


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one run."""
    start = time.process_time()
    work()
    return time.process_time() - start


def groups(module: nn.Module, example: Tensor) -> int:
    """All groups as torch-pruning's pruners make them."""
    graph = tp.DependencyGraph().build_dependency(module, example)
    ignored = [layer for layer in module.modules() if isinstance(layer, nn.LayerNorm)]
    return sum(1 for _ in graph.get_all_groups(ignored_layers=ignored))


def row(name: str, depth: int, module: nn.Module) -> tuple[float, float]:
    """Print and give our and their least seconds."""
    example = torch.randn(2, 3, 16, 16)
    module.eval()
    start = time.process_time()
    graph = export_graph(module, example)
    exported = time.process_time() - start
    symbolize_widths(graph)
    pairs = [
        (seconds(lambda: couple(graph)), seconds(lambda: groups(module, example)))
        for _ in range(ROUNDS)
    ]
    ours, theirs = (min(times) for times in zip(*pairs, strict=True))
    print(
        f"{name} {depth}: {len(graph)} ops, coupling {ours:.3f} s, torch-pruning {theirs:.3f} s, "
        f"theirs / ours {theirs / ours:.1f}; export and raise {exported:.2f} s",
        flush=True,
    )
    return ours, theirs


def exponent(depths: list[int], times: list[float]) -> float:
    """The slope of a straight line through (log depth, log seconds)."""
    logs = [math.log(depth) for depth in depths], [math.log(t) for t in times]
    return statistics.linear_regression(*logs).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="an eighth of the depth")
    share = 8 if parser.parse_args().quick else 1
    torch.set_num_threads(1)
    for name, make, full in (
        ("ResNet, layers", resnet, [48, 100, 200]),
        ("ViT, blocks", Vit, [12, 24, 48]),
    ):
        depths = [max(2, depth // share) for depth in full]
        torch.manual_seed(0)
        found = [row(name, depth, make(depth)) for depth in depths]
        ours, theirs = (exponent(depths, list(times)) for times in zip(*found, strict=True))
        print(f"{name}: exponent of the depth {ours:.2f}, torch-pruning's {theirs:.2f}")


if __name__ == "__main__":
    main()
