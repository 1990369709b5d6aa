"""What a scheme is: for which layers it is legal, the chain it makes, and what that costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from compressc_lowrank.seen import Seen

#: One number; of a Tucker decomposition the ranks of the input and of the output channels.
Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Link:
    """One layer of a chain.

    Attributes:
        suffix: of its name: `v` for `%fc.v`; nothing for the last one, which keeps the name.
        kind: of the layer, as the IR spells it; nothing where it is of the kind of the whole one.
        layer: with its weights, in eval mode.
    """

    suffix: str
    kind: str
    layer: nn.Module


class Chain(NamedTuple):
    """What a layer becomes.

    Attributes:
        links: in order, at least two; the last has the bias of the layer, if there is one.
        matrix: what they compute together, f64 in the form of `matrices.matrix_of`.
    """

    links: Sequence[Link]
    matrix: Tensor


@dataclass(frozen=True)
class Cost:
    """What a chain costs by its ranks, and what the layer does: weights, or MACs.

    A chain of ranks r to s costs `first * r + core * r * s + last * s`; biases are not counted,
    because they stay.
    """

    dense: int
    first: int
    last: int
    core: int = 0

    def of(self, ranks: Any) -> Any:
        """Of the chain of those ranks: numbers, or columns int64 `[k]` of many."""
        return self.first * ranks[0] + self.core * ranks[0] * ranks[-1] + self.last * ranks[-1]

    def times(self, dense: int, *places: int) -> Cost:
        """Multiply-accumulates of what has these weights, where each link has so many places."""
        core = self.core * places[1]
        return Cost(self.dense * dense, self.first * places[0], self.last * places[-1], core)

    @property
    def break_even(self) -> float:
        """The rank where a chain of one rank costs what the layer does."""
        return self.dense / max(1, self.first + self.last)


@dataclass(frozen=True)
class Spectrum:
    """What ranks keep of a layer.

    Attributes:
        ranks: int64 `[k, 1]`, or `[k, 2]`, ascending in what they keep and in what they cost.
        kept: f64 `[k]`, the share of the energy.
    """

    ranks: Tensor
    kept: Tensor

    def at_least(self, energy: float) -> Ranks:
        """The first ranks that keep that share; the last ones where none does."""
        return self[min(int((self.kept < energy).sum()), len(self.kept) - 1)]

    def keeps(self, ranks: Ranks) -> float:
        """The share that ranks keep; at least that, where they are between two rows."""
        within = (self.ranks <= torch.tensor(ranks)).all(1)
        return float(self.kept[within].max()) if bool(within.any()) else 0.0

    def __getitem__(self, index: int) -> Ranks:
        return tuple(self.ranks[index].tolist())


class Scheme(ABC):
    """One way to make thin layers of a wide one.

    Class variables:
        name: as options and notes call it.
        kinds: of the layers it is for.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]]

    def fits(self, layer: Any) -> bool:
        """Whether a layer of these kinds has the form that this is for."""
        return True

    def obstacle(self, layer: Any) -> str:
        """Why a layer of that form cannot be taken apart this way, or nothing."""
        if getattr(layer, "groups", 1) != 1:
            return f"a convolution of {layer.groups} groups is not one matrix"
        if getattr(layer, "padding_mode", "zeros") != "zeros":
            return f"it pads with {layer.padding_mode}, not with zeros"
        return ""

    @abstractmethod
    def full(self, layer: Any) -> Ranks:
        """The ranks at which the chain computes what the layer does, to rounding."""

    @abstractmethod
    def weights(self, layer: Any) -> Cost:
        """Weights of the layer and of its chain."""

    def moved(self, layer: Any) -> Sequence[int]:
        """For each link, how many leading dimensions of an image have the sizes of the result."""
        dims = len(getattr(layer, "kernel_size", ()))
        return dims, dims

    @abstractmethod
    def spectrum(self, layer: Any, seen: Seen | None = None) -> Spectrum:
        """What ranks keep of the weights, or of what the layer puts out; looks at values alone."""

    @abstractmethod
    def chain(self, layer: Any, ranks: Ranks, seen: Seen | None) -> Chain:
        """The thin layers.

        Args:
            layer: not changed; its bias is handed on.
            ranks: at most `full`.
            seen: of its inputs; without, every input counts alike.
        """

    def fixed(self, layer: Any, rank: int) -> Ranks:
        """The ranks that stand for one number."""
        return (rank,)

    def share(self, layer: Any, share: float) -> Ranks:
        """The ranks whose chain has that share of the layer's weights."""
        return (max(1, int(share * self.weights(layer).break_even)),)


def with_weight(layer: Any, weight: Tensor, dtype: torch.dtype, bias: Any = None) -> nn.Module:
    """A layer on the meta device gets its weight, in a dtype, and a bias."""
    layer.weight = nn.Parameter(weight.to(dtype).contiguous())
    if bias is not None:
        layer.bias = bias
    out: nn.Module = layer.eval()
    return out


def linear(weight: Tensor, dtype: torch.dtype, bias: Any = None) -> nn.Module:
    """A linear layer of a matrix [out, in]."""
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return with_weight(made, weight, dtype, bias)


def convolution(weight: Tensor, like: Any, bias: Any = None, **geometry: Any) -> nn.Module:
    """A convolution of the class of another one: stride 1, no padding, unless `geometry` says."""
    with torch.device("meta"):
        made = type(like)(
            weight.shape[1],
            weight.shape[0],
            tuple(weight.shape[2:]),
            bias=bias is not None,
            **geometry,
        )
    return with_weight(made, weight, like.weight.dtype, bias)


def geometry_of(layer: Any) -> dict[str, Any]:
    """Stride, padding and dilation of a convolution."""
    return {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
