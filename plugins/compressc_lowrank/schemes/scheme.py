"""What a scheme is: for which layers it is legal, the chain it makes, and what that costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

#: One number; of a Tucker decomposition the ranks of the input and of the output channels.
Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Link:
    """One layer of a chain.

    Attributes:
        suffix: of its name: `v` for `%fc.v`; nothing for the last one, which keeps the name.
        kind: of the layer, as the IR spells it.
        layer: with its weights, in eval mode.
        channels: of its result.
        moved: leading dimensions of an image that have the sizes of the result by then; the others
            have those of what comes in.
    """

    suffix: str
    kind: str
    layer: nn.Module
    channels: int
    moved: int = 0


@dataclass(frozen=True)
class Cost:
    """What a chain costs by its ranks, and what the layer does: parameters, or MACs.

    A chain of ranks r to s costs `first * r + core * r * s + last * s`; biases are not counted,
    because they stay.
    """

    dense: int
    first: int
    last: int
    core: int = 0

    def of(self, ranks: Ranks) -> int:
        """Of the chain of those ranks."""
        return self.first * ranks[0] + self.core * ranks[0] * ranks[-1] + self.last * ranks[-1]

    @property
    def break_even(self) -> float:
        """The rank where a chain of one rank costs what the layer does."""
        return self.dense / (self.first + self.last)


@dataclass(frozen=True)
class Spectrum:
    """What ranks keep of a layer.

    Attributes:
        ranks: int64 `[k, 1]`, or `[k, 2]`, ascending in what they keep.
        kept: f64 `[k]`, the share of the energy.
    """

    ranks: Tensor
    kept: Tensor

    def at_least(self, energy: float) -> Ranks:
        """The first ranks that keep that share; the last ones where none does."""
        return self[min(int((self.kept < energy).sum()), len(self.kept) - 1)]

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

    @abstractmethod
    def obstacle(self, layer: Any) -> str:
        """Why a layer of these kinds cannot be taken apart this way, or nothing."""

    @abstractmethod
    def full(self, layer: Any) -> Ranks:
        """The ranks at which the chain computes what the layer does, to rounding."""

    @abstractmethod
    def parameters(self, layer: Any) -> Cost:
        """Weights of the layer and of its chain."""

    @abstractmethod
    def spectrum(self, layer: Any) -> Spectrum:
        """What each rank keeps; looks at values alone."""

    @abstractmethod
    def chain(self, layer: Any, ranks: Ranks) -> Sequence[Link]:
        """The layers in order, at least two; the last has the bias of the layer, if there is one.

        Args:
            layer: not changed; its bias is handed on.
            ranks: at most `full`.
        """


def with_weight(layer: Any, weight: Tensor, like: Tensor, bias: Any = None) -> nn.Module:
    """A layer made on the meta device gets its weight, in the dtype of another one, and a bias."""
    layer.weight = nn.Parameter(weight.to(like.dtype).contiguous())
    if bias is not None:
        layer.bias = bias
    out: nn.Module = layer.eval()
    return out


def matrix_of(layer: Any) -> Tensor:
    """The weight of a linear layer or convolution as a matrix [out, in * kernel]."""
    matrix: torch.Tensor = layer.weight.detach().flatten(1)
    return matrix
