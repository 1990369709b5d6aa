"""`torch.ops.compressc.*`: schema, fake and autograd, so that torch.compile and export see them.

In these the gradient is a second operator that starts again from the logits; eager code takes the
shorter way of `losses.py`, where one pass gives both.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from compressc.kernels import dispatch, native, reference
from compressc.kernels.problem import Problem

# torch.library is untyped.
_LIBRARY: Any = cast("Any", torch.library.Library)("compressc", "DEF")
_ARGUMENTS = "Tensor student, Tensor teacher, float temperature, Tensor? weight=None"
_TAGS = (torch.Tag.pt2_compliant_tag,)
_LIBRARY.define(f"softmax_kl({_ARGUMENTS}) -> Tensor", tags=_TAGS)
_LIBRARY.define(f"softmax_kl_backward(Tensor upstream, {_ARGUMENTS}) -> Tensor", tags=_TAGS)


def loss_and_grad(problem: Problem, want_grad: bool) -> tuple[Tensor, Tensor | None]:
    """Loss `[B]`, and the gradient `[B, V]` of its sum (None if not wanted)."""
    student, teacher, temperature, weight, scale = problem
    row = dispatch.choose("softmax_kl", student.device, student.dtype, teacher.dtype)
    if row.implementation == "native":
        return native.softmax_kl(problem, want_grad)
    loss = scale * reference.softmax_kl(student, teacher, temperature, weight)
    if not want_grad:
        return loss, None
    return loss, scale * reference.softmax_kl_grad(student, teacher, temperature, weight)


def _softmax_kl(
    student: Tensor, teacher: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    return loss_and_grad(Problem(student, teacher, temperature, weight), want_grad=False)[0]


def _softmax_kl_backward(
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    weight: Tensor | None = None,
) -> Tensor:
    weight = upstream if weight is None else upstream * weight
    grad = loss_and_grad(Problem(student, teacher, temperature, weight), want_grad=True)[1]
    assert grad is not None
    return grad


def _fake_loss(
    student: Tensor, teacher: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    wide = student.dtype == torch.float64
    return student.new_empty(student.shape[0], dtype=torch.float64 if wide else torch.float32)


def _fake_grad(upstream: Tensor, student: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(student, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    student, teacher, ctx.temperature, weight = inputs
    ctx.save_for_backward(student, teacher, weight)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
    student, teacher, weight = ctx.saved_tensors
    operator = torch.ops.compressc.softmax_kl_backward
    return operator(upstream, student, teacher, ctx.temperature, weight), None, None, None


_LIBRARY.impl("softmax_kl", _softmax_kl, "CompositeExplicitAutograd")
_LIBRARY.impl("softmax_kl_backward", _softmax_kl_backward, "CompositeExplicitAutograd")
torch.library.register_fake("compressc::softmax_kl", _fake_loss, lib=_LIBRARY)
torch.library.register_fake("compressc::softmax_kl_backward", _fake_grad, lib=_LIBRARY)
torch.library.register_autograd(
    "compressc::softmax_kl", _backward, setup_context=_setup, lib=_LIBRARY
)
