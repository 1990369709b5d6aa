"""Rounding weights to a number form: to nearest, or one column after the other (GPTQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressc.ir import Op
from compressc.ir.number_forms import NumberForm, pack
from compressc.ir.quantized import quantized_layer

#: Ranges that are tried for a group, as shares of the largest: a smaller one clips a few numbers
#: and rounds the others finer. At 8 bits the largest is best.
_SHARES = tuple(1 - 0.025 * step for step in range(13))
_COARSE = 4
#: What is added to the diagonal of the inputs' second moments, as a share of its mean (GPTQ, 3.3).
_DAMPING = 0.01
#: Columns whose errors are passed on to the others at once.
_COLUMNS = 128


@dataclass(frozen=True)
class Rounded:
    """A weight as integers.

    Attributes:
        form: of them.
        values: the integers, [rows, count].
        scale: f32[rows, groups].
        zero: the integer that stands for zero, [rows, groups].
    """

    form: NumberForm
    values: Tensor
    scale: Tensor
    zero: Tensor

    def floats(self) -> Tensor:
        """What the integers stand for, [rows, count] in the dtype of the scale."""
        grouped = self.values.reshape(*self.scale.shape, -1)
        return ((grouped - self.zero.unsqueeze(-1)) * self.scale.unsqueeze(-1)).flatten(1)

    def layer(self, op: Op, input: NumberForm | None = None) -> nn.Module:
        """The quantized form of the op's layer."""
        layer: Any = op.layer
        form, shape = self.form, layer.weight.shape
        stored = pack(self.values, form)
        stored = stored if form.packed else stored.reshape(shape)
        scale = self.scale.float()
        scale = scale.squeeze(1) if form.group is None else scale
        zero = pack(self.zero, form) if form.zero_point else None
        return quantized_layer(op.kind, layer, stored, scale, zero, form=form, input=input)


def to_nearest(
    weight: Tensor, form: NumberForm, most: int | None = None, importance: Tensor | None = None
) -> Rounded:
    """Each number as the nearest integer, in the range that loses least of its group.

    Args:
        weight: [rows, count].
        form: what to round to.
        most: the largest integer to use, where it is less than the form's.
        importance: what an error in each column counts for, [count] or [rows, count]; all the same
            where not given.
    """
    groups = 1 if form.group is None else weight.shape[1] // form.group
    grouped = weight.detach().reshape(len(weight), groups, -1)
    counts = None
    if importance is not None:
        counts = importance.to(weight.dtype).reshape(-1, *grouped.shape[1:])
    best: Rounded | None = None
    least = grouped.new_full(grouped.shape[:2], torch.inf)
    for share in _SHARES if form.bits <= _COARSE else _SHARES[:1]:
        scale, zero = _range(grouped * share, form, most)
        values = _integers(grouped, scale, zero, form, most)
        errors = ((values - zero.unsqueeze(-1)) * scale.unsqueeze(-1) - grouped).square()
        loss = (errors if counts is None else errors * counts).sum(-1)
        better = loss < least
        least = torch.where(better, loss, least)
        if best is None:
            best = Rounded(form, values.flatten(1), scale, zero)
            continue
        kept = torch.where(better.unsqueeze(-1), values, best.values.reshape(values.shape))
        best = Rounded(
            form,
            kept.flatten(1),
            torch.where(better, scale, best.scale),
            torch.where(better, zero, best.zero),
        )
    assert best is not None
    return best


def column_by_column(
    weight: Tensor, form: NumberForm, moment: Tensor, most: int | None = None
) -> Rounded:
    """Each column to nearest, the error that this makes taken out through the columns behind it.

    Frantar et al. 2022, "GPTQ" (arXiv 2210.17323), algorithm 1: what is kept is
    `|W X - Q X|^2`, not `|W - Q|^2`.

    Args:
        weight: [rows, count].
        form: what to round to.
        moment: f64[count, count], the second moments of the layer's inputs; f64[groups, count,
            count] where each so many rows are given inputs of their own.
        most: the largest integer to use, where it is less than the form's.
    """
    rest, count = weight.detach().double().clone(), weight.shape[1]
    spread = _spread(moment.reshape(-1, count, count))
    given, size = len(spread), form.group or count
    importance = moment.diagonal(dim1=-2, dim2=-1).reshape(given, count)
    importance = importance.repeat_interleave(len(rest) // given, 0) if given > 1 else importance
    values = torch.empty_like(rest)
    scales, zeros = [], []
    for start in range(0, count, _COLUMNS):
        stop = min(start + _COLUMNS, count)
        errors = torch.zeros_like(rest[:, start:stop])
        for column in range(start, stop):
            if column % size == 0:  # the range of a group is that of what its columns are by now
                group = rest[:, column : column + size]
                counts = importance[:, column:][:, :size]
                part = to_nearest(group, _whole(form), most, importance=counts)
                scale, zero = part.scale, part.zero
                scales.append(scale)
                zeros.append(zero)
            own = rest[:, column : column + 1]
            q = _integers(own.unsqueeze(1), scale, zero, form, most).squeeze(1)
            values[:, column : column + 1] = q
            error = ((own - (q - zero) * scale).reshape(given, -1)) / spread[
                :, column, column, None
            ]
            errors[:, column - start] = error.flatten()
            _pass_on(rest[:, column:stop], error.unsqueeze(2), spread[:, column, None, column:stop])
        passed = errors.reshape(given, -1, stop - start)
        _pass_on(rest[:, stop:], passed, spread[:, start:stop, stop:])
    return Rounded(form, values, torch.cat(scales, 1), torch.cat(zeros, 1))


def _pass_on(rest: Tensor, errors: Tensor, spread: Tensor) -> None:
    """Take errors out through columns that are not rounded yet.

    Args:
        rest: [rows, columns], edited in place.
        errors: [groups, rows of each, n].
        spread: [groups, n, columns].
    """
    rest -= (errors @ spread).flatten(0, 1)


def _whole(form: NumberForm) -> NumberForm:
    """The same without groups: of one group."""
    return NumberForm(form.dtype, form.axis, None, form.zero_point)


def _spread(moment: Tensor) -> Tensor:
    """The upper factor of the inverse of the damped moments [groups, n, n]: how errors go on."""
    damped = moment.clone()
    diagonal = damped.diagonal(dim1=1, dim2=2)
    unused = diagonal == 0
    mean = diagonal.mean(1, keepdim=True)
    diagonal += torch.clamp(_DAMPING * mean, min=torch.finfo(damped.dtype).tiny)
    diagonal.copy_(torch.where(unused, torch.where(mean > 0, mean, 1.0), diagonal))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _range(grouped: Tensor, form: NumberForm, most: int | None) -> tuple[Tensor, Tensor]:
    """Scale and zero of each group: the range of its numbers and zero."""
    largest = form.most if most is None else most
    if form.zero_point:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = (high - low) / (form.most - form.least)
    else:
        scale = grouped.abs().amax(-1) / largest
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).float().to(grouped.dtype)
    zero = torch.zeros_like(scale)
    if form.zero_point:
        zero = torch.clamp(torch.round(form.least - low / scale), form.least, form.most)
    return scale, zero


def _integers(
    grouped: Tensor, scale: Tensor, zero: Tensor, form: NumberForm, most: int | None
) -> Tensor:
    low, high = (form.least, form.most) if most is None else (-most, most)
    steps = torch.round(grouped / scale.unsqueeze(-1)) + zero.unsqueeze(-1)
    return torch.clamp(steps, low, high)
