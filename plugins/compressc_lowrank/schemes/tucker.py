"""k x k convolutions: 1x1 to few channels, a k x k core, 1x1 to all channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from compressc_lowrank.leading import leading
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
from compressc_lowrank.seen import Seen, fitted

#: Sweeps of higher-order orthogonal iteration behind the decomposition; the third changes little.
_SWEEPS = 3


class Tucker(Scheme):
    """Tucker-2: ranks for the input and for the output channels (Kim et al. 2016, section 3).

    Begun with the singular vectors of both unfoldings (HOSVD), then higher-order orthogonal
    iteration (De Lathauwer et al. 2000). With inputs seen, input channels are weighted by their
    covariance, and the rest is the best behind the first convolution (a `channel` SVD).
    """

    name: ClassVar[str] = "tucker"
    kinds: ClassVar[frozenset[str]] = frozenset({"conv1d", "conv2d", "conv3d"})

    def fits(self, layer: Any) -> bool:
        """Kernels of more than one place."""
        return set(layer.kernel_size) != {1}

    def full(self, layer: Any) -> Ranks:
        """All channels, or as many as differ."""
        out, in_, *kernel = layer.weight.shape
        size = torch.Size(kernel).numel()
        return min(in_, out * size), min(out, in_ * size)

    def weights(self, layer: Any) -> Cost:
        """`in * r + r * k * k * s + s * out`."""
        out, in_, *kernel = layer.weight.shape
        size = torch.Size(kernel).numel()
        return Cost(out * in_ * size, in_, out, size)

    def moved(self, layer: Any) -> Sequence[int]:
        """The core has stride and padding."""
        dims = len(layer.kernel_size)
        return 0, dims, dims

    def fixed(self, layer: Any, rank: int) -> Ranks:
        """The same rank on both sides, as far as there are channels."""
        in_, out = self.full(layer)
        return min(rank, in_), min(rank, out)

    def share(self, layer: Any, share: float) -> Ranks:
        """The same share of the channels on both sides."""
        cost, (in_, out) = self.weights(layer), self.full(layer)
        # first * in * t + last * out * t + core * in * out * t^2 = share * dense
        straight, bent = cost.first * in_ + cost.last * out, cost.core * in_ * out
        part = ((straight**2 + 4 * bent * share * cost.dense) ** 0.5 - straight) / (2 * bent)
        return max(1, int(part * in_)), max(1, int(part * out))

    def spectrum(self, layer: Any, seen: Seen | None = None) -> Spectrum:
        """Of the ranks that no cheaper ones outdo, by the squares of the core (HOSVD)."""
        tensor = _tensor(layer, seen)
        inner, outer = self.full(layer)
        bases = leading(tensor.flatten(1), outer), _inner(tensor, inner)
        core = torch.einsum("oik,or,is->rsk", tensor, *bases).square().sum(2)
        kept = core.cumsum(0).cumsum(1)
        kept = (kept / kept[-1, -1]).flatten()
        ranks = torch.cartesian_prod(*(torch.arange(1, n + 1) for n in (outer, inner))).flip(1)
        cost = self.weights(layer)
        prices = cost.of(ranks.T)
        order = prices.argsort(stable=True)
        best = kept[order].cummax(0).values
        better = torch.cat([torch.tensor([True]), best[1:] > best[:-1]])
        return Spectrum(ranks[order][better], best[better])

    def chain(self, layer: Any, ranks: Ranks, seen: Seen | None) -> Chain:
        """The core has kernel, stride, padding and dilation."""
        tensor = _tensor(layer, seen)
        outer, inner = _iterated(tensor, *ranks)
        core = torch.einsum("oik,or,is->rsk", tensor, outer, inner)
        parts = _Parts(inner.T, core, outer)
        parts = _balanced(parts if seen is None else _refitted(layer, parts, seen))
        places = torch.einsum("rsk,si->rik", parts.core, parts.first).flatten(1)
        dims = len(layer.kernel_size)
        kind, one = f"conv{dims}d", [1] * dims
        kernel = parts.core.reshape(*parts.core.shape[:2], *layer.kernel_size)
        thin = parts.first.reshape(*parts.first.shape, *one)
        wide = parts.last.reshape(*parts.last.shape, *one)
        links = (
            Link("v", kind, convolution(thin, layer)),
            Link("core", kind, convolution(kernel, layer, **geometry_of(layer))),
            Link("", kind, convolution(wide, layer, layer.bias)),
        )
        return Chain(links, parts.last @ places)


class _Parts(NamedTuple):
    """[s, in], [r, s, k] and [out, r]."""

    first: Tensor
    core: Tensor
    last: Tensor


def _refitted(layer: Any, parts: _Parts, seen: Seen) -> _Parts:
    """The best core and last factor behind the first one: a `channel` SVD of what it hands on."""
    root = seen.of_channels(layer.kernel_size).root()
    first: Tensor = torch.linalg.solve_triangular(root.T, parts.first.T, upper=True).T
    rank, width, size = parts.core.shape
    handed = torch.einsum("si,kl->skil", first, torch.eye(size, dtype=first.dtype))
    handed = handed.reshape(width * size, -1)
    wide = fitted(layer, handed, seen, parts.last @ parts.core.flatten(1))
    last = leading(wide @ (handed @ seen.root()), min(rank, *wide.shape))
    last = torch.nn.functional.pad(last, (0, rank - last.shape[1]))
    return _Parts(first, (last.T @ wide).reshape(rank, width, size), last)


def _tensor(layer: Any, seen: Seen | None) -> Tensor:
    """The weight f64 [out, in, k], its input channels weighted by what was seen."""
    weight: Tensor = layer.weight.detach().double().flatten(2)
    if seen is None:
        return weight
    return torch.einsum("oik,ij->ojk", weight, seen.of_channels(layer.kernel_size).root())


def _inner(tensor: Tensor, rank: int) -> Tensor:
    """The leading directions of the input channels, [in, rank]."""
    return leading(tensor.movedim(1, 0).flatten(1), rank)


def _iterated(tensor: Tensor, inner_rank: int, outer_rank: int) -> tuple[Tensor, Tensor]:
    """Bases of both sides: [out, r] and [in, s]."""
    inner = _inner(tensor, inner_rank)
    for _ in range(_SWEEPS):
        small = torch.einsum("oik,is->osk", tensor, inner)
        outer = _padded(small.flatten(1), outer_rank)
        small = torch.einsum("oik,or->rik", tensor, outer)
        inner = _padded(small.movedim(1, 0).flatten(1), inner_rank)
    return outer, inner


def _padded(matrix: Tensor, rank: int) -> Tensor:
    """`leading`, and columns of zeros where the matrix has no such rank."""
    found = leading(matrix, min(rank, *matrix.shape))
    return torch.nn.functional.pad(found, (0, rank - found.shape[1]))


def _balanced(parts: _Parts) -> _Parts:
    """The same product, its channels shared out evenly and each part of the same norm."""
    first, core, last = parts
    for dim in (1, 0):
        norms = core.movedim(dim, 0).flatten(1).norm(dim=1).sqrt()
        norms = norms.clamp_min(float(norms.max()) * 1e-6)
        norms = norms if float(norms.max()) else torch.ones_like(norms)
        if dim:
            first, core = first * norms[:, None], core / norms[:, None]
        else:
            last, core = last * norms, core / norms[:, None, None]
    sizes = [float(part.norm()) for part in (first, core, last)]
    if not all(sizes):
        return _Parts(first, core, last)
    mean = (sizes[0] * sizes[1] * sizes[2]) ** (1 / 3)
    first, core, last = (
        part * (mean / size) for part, size in zip((first, core, last), sizes, strict=True)
    )
    return _Parts(first, core, last)
