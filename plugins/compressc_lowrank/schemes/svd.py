"""Linear layers and 1x1 convolutions: two thin ones, by singular value decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compressc_lowrank.schemes.scheme import (
    Cost,
    Link,
    Ranks,
    Scheme,
    Spectrum,
    matrix_of,
    with_weight,
)


class Svd(Scheme):
    """W [out, in] becomes U [out, r] V [r, in] with the r largest singular values.

    The best of that rank (Eckart and Young 1936); each factor carries square roots of the values,
    so that both train alike.
    """

    name: ClassVar[str] = "svd"
    kinds: ClassVar[frozenset[str]] = frozenset({"linear", "conv2d"})

    def obstacle(self, layer: Any) -> str:
        """Kernels, groups and padding are refused."""
        if isinstance(layer, nn.Linear):
            return ""
        if set(layer.kernel_size) != {1} or layer.groups != 1:
            return "only 1x1 convolutions without groups are one matrix"
        if layer.padding not in ((0, 0), "valid"):
            return "a padded 1x1 convolution is not one matrix"
        return ""

    def full(self, layer: Any) -> Ranks:
        """The smaller side of the matrix."""
        return (min(matrix_of(layer).shape),)

    def parameters(self, layer: Any) -> Cost:
        """`in * r + r * out`."""
        out, in_ = matrix_of(layer).shape
        return Cost(out * in_, in_, out)

    def spectrum(self, layer: Any) -> Spectrum:
        """By the squared singular values."""
        energy = torch.cumsum(singular_values(matrix_of(layer)) ** 2, 0)
        return Spectrum(torch.arange(1, len(energy) + 1)[:, None], energy / energy[-1])

    def chain(self, layer: Any, ranks: Ranks) -> Sequence[Link]:
        """V and U; strides stay with the first."""
        (rank,) = ranks
        left, values, right = torch.linalg.svd(matrix_of(layer).double(), full_matrices=False)
        roots = values[:rank].sqrt()
        thin = _linear_like(layer, right[:rank] * roots[:, None], bias=None, first=True)
        wide = _linear_like(layer, left[:, :rank] * roots, bias=layer.bias, first=False)
        kind = "linear" if isinstance(layer, nn.Linear) else "conv2d"
        return Link("v", kind, thin, rank, 2), Link("", kind, wide, len(left), 2)


def singular_values(matrix: Tensor) -> Tensor:
    """All of them, descending, f64[min(out, in)]; for their energies, so small ones are rough.

    By the eigenvalues of the smaller Gram matrix: many times faster than a decomposition.
    """
    wide = matrix.double()
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp_min(0).sqrt().flip(0)


def _linear_like(layer: Any, matrix: Tensor, *, bias: Any, first: bool) -> nn.Module:
    """A layer of the same kind with the given matrix [out, in]; strides stay with the first."""
    out, in_ = matrix.shape
    factor: Any
    with torch.device("meta"):
        if isinstance(layer, nn.Linear):
            factor = nn.Linear(in_, out, bias=bias is not None)
        else:
            stride = layer.stride if first else 1
            factor = nn.Conv2d(in_, out, 1, stride=stride, bias=bias is not None)
            matrix = matrix[:, :, None, None]
    return with_weight(factor, matrix, layer.weight, bias)
