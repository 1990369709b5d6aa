"""What a linear layer or a convolution multiplies, and what it gives: row by row, in one order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compressc.ir import Op


def input_rows(op: Op, x: Tensor, valid: Tensor | None, most: int) -> Tensor:
    """The input of a product as rows `[n, columns]`; of a convolution, what is under each window.

    Args:
        op: a linear layer, a convolution, not a transposed one, or a recurrent layer.
        x: what it reads, `[b, ..., in]` or `[b, in, ...]`; `[s, b, in]` of a recurrent layer that
            takes its sequences so.
        valid: which positions of a text are no padding, bool `[b, s]`; the others are left out.
        most: rows, evenly spread where there are more.
    """
    layer: Any = op.layer
    if op.role == "convolution":
        return patches(layer, x, most)
    if op.role == "recurrent" and not layer.batch_first:
        x = x.transpose(0, 1)
    return spread(_positions(x, valid), most)


def input_pieces(op: Op, x: Tensor, valid: Tensor | None, most: int, size: int) -> Iterator[Tensor]:
    """The rows of `input_rows`, some at a time.

    Args:
        op, x, valid, most: as there.
        size: bytes of a piece at most, or one row.
    """
    if op.role == "convolution":
        windows, count = _windows(op.layer, x)
        row = windows.numel() // count * x.element_size()
        for part in torch.split(_indices(count, most), max(1, size // row)):
            yield _at(windows, part)
        return
    rows = spread(_positions(x, valid), most)
    yield from torch.split(rows, max(1, size // (rows.shape[-1] * rows.element_size())))


def output_rows(op: Op, y: Tensor, valid: Tensor | None, most: int) -> Tensor:
    """The output of a product as rows `[n, out]`, those of `input_rows` in the same order.

    Args:
        op, valid, most: as there.
        y: what it gives, `[b, ..., out]` or `[b, out, ...]`.
    """
    if op.role == "convolution":
        layer: Any = op.layer
        dim = y.ndim - len(layer.kernel_size) - 1
        return spread(y.movedim(dim, -1).flatten(0, -2), most)
    return spread(_positions(y, valid), most)


def patches(layer: Any, x: Tensor, most: int) -> Tensor:
    """What a convolution multiplies at each place, `[n, in * kernel]`; at most so many places."""
    windows, count = _windows(layer, x)
    return _at(windows, _indices(count, most))


def _windows(layer: Any, x: Tensor) -> tuple[Tensor, int]:
    """What is under each window, a view `[b, places..., in, kernel...]`; and how many there are."""
    dims = len(layer.kernel_size)
    x = x if x.dim() == dims + 2 else x[None]
    windows = _padded(layer, x)
    for dim in range(dims):
        span = (layer.kernel_size[dim] - 1) * layer.dilation[dim] + 1
        windows = windows.unfold(dim + 2, span, layer.stride[dim])
    every: Any = (..., *(slice(None, None, step) for step in layer.dilation))
    windows = windows[every].movedim(1, dims + 1)
    return windows, windows.shape[: dims + 1].numel()


def _at(windows: Tensor, at: Tensor) -> Tensor:
    """Some of the windows as rows."""
    places = windows.shape[: windows.dim() // 2]
    return windows[torch.unravel_index(at, places)].flatten(1)


def _padded(layer: Any, x: Tensor) -> Tensor:
    if layer.padding == "valid":
        return x
    if layer.padding == "same":
        steps = zip(layer.kernel_size, layer.dilation, strict=True)
        both = [step * (size - 1) for size, step in steps]
        pads = [part for total in reversed(both) for part in (total // 2, total - total // 2)]
    else:
        pads = [pad for pad in reversed(layer.padding) for _ in range(2)]
    if not any(pads):
        return x  # `pad` would copy it
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, pads, mode=mode)


def _positions(x: Tensor, valid: Tensor | None) -> Tensor:
    if valid is not None and x.ndim > 2 and x.shape[: valid.ndim] == valid.shape:
        return x[valid].flatten(0, -2)
    return x.reshape(-1, x.shape[-1])


def spread(rows: Tensor, most: int) -> Tensor:
    """All rows, or so many, evenly spread."""
    return rows if len(rows) <= most else rows[_indices(len(rows), most)]


def _indices(count: int, most: int) -> Tensor:
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most, dtype=torch.float64).long()
