"""One matrix as the product of two: linear layers, and convolutions as matrices of patches."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from compressc_lowrank.leading import balanced, energies, leading
from compressc_lowrank.matrices import matrix_of
from compressc_lowrank.schemes.scheme import (
    Chain,
    Cost,
    Link,
    Ranks,
    Scheme,
    Spectrum,
    convolution,
    geometry_of,
    linear,
)
from compressc_lowrank.seen import Seen, weighed


class Svd(Scheme):
    """W [out, in] becomes U [out, r] V [r, in]: the best of that rank.

    By the weights alone, these are the r largest singular values (Eckart and Young 1936). With
    inputs of covariance L L^T, the error of the results is |(W - U V) L|, and the best is W behind
    a projection on the r leading left singular vectors of W L (Zhang et al. 2016, "Accelerating
    Very Deep Convolutional Networks", eq. 4; the same as whitening, SVD-LLM, and back, without an
    inverse).
    """

    name: ClassVar[str] = "svd"
    kinds: ClassVar[frozenset[str]] = frozenset({"linear", "conv1d", "conv2d", "conv3d"})

    def fits(self, layer: Any) -> bool:
        """Linear layers and 1x1 convolutions."""
        return isinstance(layer, nn.Linear) or set(layer.kernel_size) == {1}

    def full(self, layer: Any) -> Ranks:
        """The smaller side of the matrix."""
        return (min(matrix_of(layer).shape),)

    def weights(self, layer: Any) -> Cost:
        """`in * kernel * r + r * out`."""
        out, in_ = matrix_of(layer).shape
        return Cost(out * in_, in_, out)

    def spectrum(self, layer: Any, seen: Seen | None = None) -> Spectrum:
        """By the squared singular values."""
        return of_matrix(weighed(matrix_of(layer).double(), seen))

    def chain(self, layer: Any, ranks: Ranks, seen: Seen | None) -> Chain:
        """V and U; kernel, stride, padding and dilation stay with V."""
        wide = matrix_of(layer).double()
        basis = leading(weighed(wide, seen), *ranks)
        left, right = balanced(basis, basis.T @ wide)
        if isinstance(layer, nn.Linear):
            kind, v = "linear", linear(right, layer.weight.dtype)
            u = linear(left, layer.weight.dtype, layer.bias)
        else:
            kind, shape = f"conv{len(layer.kernel_size)}d", layer.weight.shape
            v = convolution(right.reshape(-1, *shape[1:]), layer, **geometry_of(layer))
            u = convolution(left.reshape(*left.shape, *[1] * (len(shape) - 2)), layer, layer.bias)
        return Chain((Link("v", kind, v), Link("", kind, u)), left @ right)


class Channel(Svd):
    """A k x k convolution to r channels, then a 1x1 convolution to all of them.

    The weight as a matrix of patches [out, in * k * k] (Denton et al. 2014; Zhang et al. 2016).
    """

    name: ClassVar[str] = "channel"
    kinds: ClassVar[frozenset[str]] = frozenset({"conv1d", "conv2d", "conv3d"})

    def fits(self, layer: Any) -> bool:
        """Kernels of more than one place."""
        return set(layer.kernel_size) != {1}


def of_matrix(wide: torch.Tensor) -> Spectrum:
    """What each rank keeps of a matrix f64 [out, in]."""
    energy = torch.cumsum(energies(wide), 0)
    return Spectrum(torch.arange(1, len(energy) + 1)[:, None], energy / energy[-1])
