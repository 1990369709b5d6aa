"""Ops that move along dimensions: windows, running sums, sorting, padding, turning round.

Their result has the axes of the operand, but no index of a dimension that they move along may go:
what stands at its other indices depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from compressc.analysis.arguments import argument
from compressc.analysis.axes import Axis, factor_axis, product_axis
from compressc.analysis.coupling_rules.rule import (
    Analysis,
    Rule,
    Values,
    dims,
    each_result,
    freeze_dims,
    freeze_others,
    fresh,
)
from compressc.ir import Op, Role

#: The dimensions that a call moves along, given the rank of its first operand.
Along = Callable[[Op, int], list[int]]


def _named(name: str) -> Along:
    return lambda op, rank: dims(op, name, rank)


def _at(*where: int) -> Along:
    return lambda op, rank: [dim % rank for dim in where]


def _trailing(op: Op, rank: int) -> list[int]:
    """`avg_pool2d` has two spatial dimensions, the last ones."""
    found = re.search(r"(\d)d", op.kind)
    assert found is not None
    return list(range(rank - int(found.group(1)), rank))


def _sampled(op: Op, rank: int) -> list[int]:
    """All behind batch and channels."""
    return list(range(2, rank))


def _transformed(op: Op, rank: int) -> list[int]:
    """Those named; else the last ones, as many as sizes are given."""
    sizes = argument(op, "s")
    if argument(op, "dim") is None and sizes is not None:
        return list(range(rank - len(sizes), rank))
    return dims(op, "dim", rank)


def _padded(op: Op, rank: int) -> list[int]:
    """Pairs of amounts, from the last dimension on."""
    amounts = argument(op, "pad")
    pairs = zip(amounts[::2], amounts[1::2], strict=True)
    return [rank - 1 - back for back, pair in enumerate(pairs) if pair != (0, 0)]


def _along(where: Along, reason: str, *, positions: bool = False) -> Rule:
    """Moving along some dimensions; `positions`: a further operand says where to read."""

    def rule(c: Analysis, op: Op) -> Values | None:
        x, sizes = c.axes(op.args[0]), c.sizes(op)
        if len(op.inputs) > 1 and not positions:
            return None
        moved = set(where(op, len(x)))
        freeze_dims(x, moved, reason, op)
        freeze_others(c, op, "positions to read at")
        pairs = enumerate(zip(x, sizes, strict=True))
        return each_result(
            op,
            tuple(
                Axis(size, frozen=reason, by=op.name) if dim in moved else axis
                for dim, (axis, size) in pairs
            ),
        )

    return rule


def _turned(c: Analysis, op: Op) -> Values:
    """A quarter turn exchanges its two dimensions."""
    x = list(c.axes(op.args[0]))
    first, second = dims(op, "dims", len(x))
    freeze_dims(tuple(x), (first, second), "turned round", op)
    if argument(op, "k") % 2:
        x[first], x[second] = x[second], x[first]
    return tuple(x)


def _slice(c: Analysis, op: Op) -> Values | None:
    x = c.axes(op.args[0])
    (dim,) = dims(op, "dim", len(x))
    whole = c.sizes(op)[dim] == x[dim].size
    return x if whole else _read_slice(c, op)


_read_slice = _along(_named("dim"), "a slice is read from it")


def _windows(c: Analysis, op: Op) -> Values:
    """`Tensor.unfold`: the windows along a dimension, their elements in a new last one."""
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    (dim,) = dims(op, "dimension", len(x))
    freeze_dims(x, [dim], "windows are read along it", op)
    count, width = fresh([sizes[dim], sizes[-1]], "windows", op.name)
    return (*x[:dim], count, *x[dim + 1 :], width)


def _columns(c: Analysis, op: Op) -> Values:
    """`F.unfold`: [b, c, h, w] -> [b, c * kernel, positions]."""
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    freeze_dims(x, (-1, -2), "windows are read along it", op)
    kernel, places = fresh([sizes[-2] // x[-3].size, sizes[-1]], "windows", op.name)
    return (*x[:-3], product_axis(x[-3], kernel), places)


def _from_columns(c: Analysis, op: Op) -> Values | None:
    """`F.fold`: [b, c * kernel, positions] -> [b, c, h, w]."""
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    channels, kernel = factor_axis(x[-2], sizes[-3], x[-2].size // sizes[-3])
    reason = "windows are put together along it"
    freeze_dims((kernel, x[-1]), (0, 1), reason, op)
    return (*x[:-2], channels, *fresh(sizes[-2:], reason, op.name))


def _shuffled_pixels(c: Analysis, op: Op) -> Values:
    """[.., c * r * r, h, w] -> [.., c, h * r, w * r]."""
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    channels, block = factor_axis(x[-3], sizes[-3], x[-3].size // sizes[-3])
    reason = "its pixels are interleaved"
    freeze_dims((block, *x[-2:]), range(3), reason, op)
    return (*x[:-3], channels, *fresh(sizes[-2:], reason, op.name))


def _unshuffled_pixels(c: Analysis, op: Op) -> Values:
    """[.., c, h * r, w * r] -> [.., c * r * r, h, w]."""
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    reason = "its pixels are told apart"
    freeze_dims(x, (-1, -2), reason, op)
    (block,) = fresh([sizes[-3] // x[-3].size], "pixels of a block", op.name)
    return (*x[:-3], product_axis(x[-3], block), *fresh(sizes[-2:], reason, op.name))


def _spectrum(c: Analysis, op: Op) -> Values:
    """`stft`: [.., samples] -> [.., frequencies, frames]; `istft` goes back."""
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    rows = len(x) - 1 if "istft" not in op.kind else max(len(x) - 2, 0)
    freeze_dims(x, range(rows, len(x)), _TRANSFORMS, op)
    freeze_others(c, op, "a window")
    return (*x[:rows], *fresh(sizes[rows:], _TRANSFORMS, op.name))


def _affine_grid(c: Analysis, op: Op) -> Values:
    """[b, 2, 3] -> [b, h, w, 2]; of three dimensions likewise."""
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    reason = "coordinates of a grid"
    freeze_dims(x, range(1, len(x)), reason, op)
    return (x[0], *fresh(sizes[1:], reason, op.name))


_TRANSFORMS = "a Fourier transform runs over it"
_POOLS = """
max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices
max_pool3d_with_indices max_pool1d_with_indices fractional_max_pool2d fractional_max_pool3d
"""
_RESIZED = """
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""
_PADDED = """
reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
replication_pad3d
"""
_RUNNING = "cumsum cumprod cummax cummin logcumsumexp diff"
_TRANSFORMED = """
fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
fft_hfft2 fft_ihfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn fft_ihfftn
"""


def _all(names: str, where: Along, reason: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), _along(where, reason))


_pool = _along(_trailing, "pooling slides along it")

#: Role of a layer -> rule.
ROLES: dict[Role, Rule] = {"average_pool": _pool, "max_pool": _pool}

#: Name of an ATen op, without its overload -> rule.
FAMILIES: dict[str, Rule] = {
    **dict.fromkeys(_POOLS.split(), _pool),
    **_all(_RESIZED, _trailing, "interpolated"),
    **_all(_PADDED, _trailing, "padded"),
    **_all("pad constant_pad_nd", _padded, "padded"),
    **dict.fromkeys(
        ("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"),
        _along(_sampled, "sampled at positions", positions=True),
    ),
    **_all("softmax _softmax log_softmax _log_softmax", _named("dim"), "a softmax runs over it"),
    **_all(_RUNNING, _named("dim"), "a running sum goes along it"),
    **_all("sort argsort topk", _named("dim"), "its indices are sorted"),
    **_all("msort", _at(0), "its indices are sorted"),
    **_all("flip roll", _named("dims"), "turned round"),
    **_all("fft_fftshift fft_ifftshift", _named("dim"), "turned round"),
    **_all("flipud", _at(0), "turned round"),
    **_all("fliplr", _at(1), "turned round"),
    **_all("tril triu", _at(-2, -1), "a triangle is read from it"),
    **_all("narrow", _named("dim"), "a slice is read from it"),
    "slice": _slice,
    "index_select": _along(_named("dim"), "single indices are read from it", positions=True),
    **_all(_TRANSFORMED, _transformed, _TRANSFORMS),
    **dict.fromkeys(("stft", "istft"), _spectrum),
    "affine_grid_generator": _affine_grid,
    "rot90": _turned,
    "unfold": _windows,
    "im2col": _columns,
    "col2im": _from_columns,
    "pixel_shuffle": _shuffled_pixels,
    "pixel_unshuffle": _unshuffled_pixels,
}
