"""Networks whose widths are coupled in ways the shared zoo does not show."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from compressc.analysis import symbolize_widths
from compressc.frontend import export_module, import_program
from compressc.ir import Graph
from tests.models import ZOO


class GroupedQueries(nn.Module):
    """Separate q, k, v; fewer key heads than query heads; a gated MLP; residuals."""

    def __init__(self, heads: int = 8, kv_heads: int = 4, head_width: int = 6, repeat: bool = True):
        super().__init__()
        width = 20
        self.heads, self.kv_heads, self.head_width, self.repeat = (
            heads,
            kv_heads,
            head_width,
            repeat,
        )
        self.norm = nn.RMSNorm(width)
        self.q = nn.Linear(width, heads * head_width)
        self.k = nn.Linear(width, kv_heads * head_width)
        self.v = nn.Linear(width, kv_heads * head_width)
        self.o = nn.Linear(heads * head_width, width)
        self.gate, self.up = nn.Linear(width, 24), nn.Linear(width, 24)
        self.down = nn.Linear(24, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        # as Hugging Face writes it: -1 stands for the heads
        q, k, v = (
            layer(x).view(b, n, -1, self.head_width).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        if self.repeat:
            k, v = (self._repeated(t) for t in (k, v))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(out.transpose(1, 2).reshape(b, n, -1))

    def _repeated(self, t: torch.Tensor) -> torch.Tensor:
        b, kv_heads, n, width = t.shape
        times = self.heads // self.kv_heads
        wide = t[:, :, None].expand(b, kv_heads, times, n, width)
        return wide.reshape(b, kv_heads * times, n, width)


class Rotary(GroupedQueries):
    """Halves of every q and k head are swapped: single indices of a head width are told apart."""

    def __init__(self) -> None:
        super().__init__(heads=4, kv_heads=4, repeat=False)
        self.register_buffer("cos", torch.randn(5, self.head_width))
        self.register_buffer("sin", torch.randn(5, self.head_width))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = (
            layer(x).view(b, n, self.heads, self.head_width).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = self._turned(q), self._turned(k)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.o(out.transpose(1, 2).reshape(b, n, -1))

    def _turned(self, t: torch.Tensor) -> torch.Tensor:
        first, second = t.chunk(2, -1)
        return t * self.cos + torch.cat([-second, first], -1) * self.sin


class SplitQkv(nn.Module):
    """GPT-2's way: one product, split in three, written-out attention with a mask."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.norm, self.c_attn = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.c_proj, self.head = nn.Linear(width, width), nn.Linear(width, 5)
        self.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        q, k, v = self.c_attn(self.norm(x)).split(self.width, 2)
        q, k, v = (t.view(b, n, self.heads, d // self.heads).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5 + self.mask
        out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d)
        return self.head(x + self.c_proj(out))


class Shuffle(nn.Module):
    """A channel shuffle, (3, 4) to (4, 3), in front of a grouped convolution."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 1)
        self.second = nn.Conv2d(12, 12, 3, padding=1, groups=groups)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        x = x.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(torch.relu(self.second(x)).sum((2, 3)))


class Grouped(nn.Module):
    """A grouped and a transposed grouped convolution, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 18, 3, stride=2, padding=1, groups=3)
        self.up = nn.ConvTranspose2d(18, 6, 2, stride=2, groups=3)
        self.head = nn.Linear(6 * 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.up(x)).flatten(1))


class Padded(nn.Module):
    """A residual whose channels are padded with zeros (the ResNet paper's option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = F.pad(x, (0, 0, 0, 0, 4, 4)) + self.wide(x)
        return self.head(x.amax((2, 3)))


class BareNorm(nn.Module):
    """A layer norm without weights, and a running sum along a width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 3)
        self.norm = nn.LayerNorm(12, elementwise_affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.norm(self.a(x))).cumsum(1))


def _image() -> torch.Tensor:
    return torch.randn(4, 1, 8, 8)


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]] = {
    **ZOO,
    "gqa_repeat": lambda: (GroupedQueries(), (torch.randn(4, 5, 20),)),
    "gqa_flag": lambda: (GroupedQueries(repeat=False), (torch.randn(4, 5, 20),)),
    "mqa": lambda: (GroupedQueries(kv_heads=1), (torch.randn(4, 5, 20),)),
    "rotary": lambda: (Rotary(), (torch.randn(4, 5, 20),)),
    "split_qkv": lambda: (SplitQkv(), (torch.randn(4, 6, 24),)),
    "shuffle": lambda: (Shuffle(groups=6), (_image(),)),
    "shuffle_in_line": lambda: (Shuffle(groups=4), (_image(),)),
    "grouped": lambda: (Grouped(), (_image(),)),
    "padded": lambda: (Padded(), (_image(),)),
    "bare_norm": lambda: (BareNorm(), (torch.randn(4, 6),)),
}


def net(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A network in eval mode with seeded weights, and example inputs."""
    torch.manual_seed(1)
    module, example = NETS[name]()
    return module.eval(), example


@lru_cache
def _imported(name: str) -> Graph:
    module, example = net(name)
    return import_program(export_module(module, example), name)


def baked(name: str) -> Graph:
    """A private copy of the graph as torch.export leaves it."""
    return _imported(name).copy()


@lru_cache
def _symbolized(name: str) -> Graph:
    graph = baked(name)
    symbolize_widths(graph)
    return graph


def symbolized(name: str) -> Graph:
    """A private copy with sizes written over width symbols."""
    return _symbolized(name).copy()
