"""k x k convolutions: one along the columns, then one along the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from compressc_lowrank.leading import balanced, leading
from compressc_lowrank.schemes.scheme import (
    Chain,
    Cost,
    Link,
    Ranks,
    Scheme,
    Spectrum,
    convolution,
    geometry_of,
)
from compressc_lowrank.schemes.svd import of_matrix
from compressc_lowrank.seen import Seen, fitted, weighed


class Spatial(Scheme):
    """A convolution in -> out becomes k x 1, in -> r, and 1 x k, r -> out.

    The weight as a matrix [(in, y), (out, x)] (Jaderberg et al. 2014; Tai et al. 2016, theorem 1:
    its singular vectors are the best of that rank). With inputs seen, rows are weighted by the
    covariance of (in, y), and the second convolution is fitted anew by least squares.
    """

    name: ClassVar[str] = "spatial"
    kinds: ClassVar[frozenset[str]] = frozenset({"conv2d"})

    def fits(self, layer: Any) -> bool:
        """Kernels that have two sides."""
        return 1 not in layer.kernel_size

    def full(self, layer: Any) -> Ranks:
        """The smaller side of the matrix."""
        out, in_, y, x = layer.weight.shape
        return (min(in_ * y, out * x),)

    def weights(self, layer: Any) -> Cost:
        """`in * k * r + r * out * k`."""
        out, in_, y, x = layer.weight.shape
        return Cost(out * in_ * y * x, in_ * y, out * x)

    def moved(self, layer: Any) -> Sequence[int]:
        """The columns first, then the rows."""
        return 1, 2

    def spectrum(self, layer: Any, seen: Seen | None = None) -> Spectrum:
        """By the squared singular values of the matrix."""
        rows = None if seen is None else seen.of_columns(layer.kernel_size)
        return of_matrix(weighed(_matrix(layer).T, rows))

    def chain(self, layer: Any, ranks: Ranks, seen: Seen | None) -> Chain:
        """Sides, strides, padding and dilation go with their own dimension."""
        wide = _matrix(layer).T  # [(out, x), (in, y)]
        rows = None if seen is None else seen.of_columns(layer.kernel_size)
        basis = leading(weighed(wide, rows), *ranks)
        across, down = balanced(basis, basis.T @ wide)
        out, in_, y, x = layer.weight.shape
        first = down.reshape(-1, in_, y)
        second = across.reshape(out, x, -1).movedim(1, 2)  # [out, r, x]
        if seen is not None:
            # what comes in at each place (r, x), as a function of the patch (in, y, x)
            places = torch.einsum("riy,xz->rxiyz", first, torch.eye(x, dtype=first.dtype))
            places = places.reshape(-1, in_ * y * x)
            second = fitted(layer, places, seen, second.reshape(out, -1)).reshape(second.shape)
        matrix = torch.einsum("orx,riy->oiyx", second, first).flatten(1)
        links = (
            Link("v", "conv2d", convolution(first[..., None], layer, **_side(layer, 0))),
            Link(
                "", "conv2d", convolution(second[:, :, None], layer, layer.bias, **_side(layer, 1))
            ),
        )
        return Chain(links, matrix)


def _matrix(layer: Any) -> Tensor:
    """[(in, y), (out, x)]."""
    weight: Tensor = layer.weight.detach().double()
    return weight.permute(1, 2, 0, 3).reshape(weight.shape[1] * weight.shape[2], -1)


def _side(layer: Any, dim: int) -> dict[str, Any]:
    """The geometry along one dimension; nothing happens along the other."""
    still = {"stride": 1, "padding": 0, "dilation": 1}
    return {
        name: value
        if isinstance(value, str)  # `same` and `valid` do nothing along a side of 1
        else tuple(value[i] if i == dim else still[name] for i in range(2))
        for name, value in geometry_of(layer).items()
    }
