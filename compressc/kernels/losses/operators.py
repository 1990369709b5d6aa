"""`torch.ops.compressc.*`: schema, fake and autograd, so that torch.compile and export see them.

In these the gradient is a second operator that starts again from the logits; eager code takes the
shorter way of `softmax_kl.py`, where one pass gives both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from compressc.kernels import cuda, dispatch, native, reference
from compressc.kernels.losses import gradients
from compressc.kernels.losses.problem import Problem, TopK

# torch.library is untyped.
LIBRARY: Any = cast("Any", torch.library.Library)("compressc", "DEF")


#: problem, want_grad, reduce, in_place -> loss and gradient, as `loss_and_grad` has them.
Kernel = Callable[[Problem, bool, bool, bool], tuple[Tensor, Tensor | None]]


def loss_and_grad(
    problem: Problem, want_grad: bool, reduce: bool = False, in_place: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Loss `[B]` (its sum with `reduce`), and the gradient `[B, V]` of the sum (or None).

    With `in_place` the student's logits (contiguous) may be overwritten by the gradient.
    """
    rows_loss = kernel(problem)
    if rows_loss is not None:
        return rows_loss(problem, want_grad, reduce, in_place)
    loss = reference.rows_loss(problem)
    grad = gradients.rows_grad(problem) if want_grad else None
    return (loss.sum() if reduce else loss), grad


def kernel(problem: Problem) -> Kernel | None:
    """The kernel that solves `problem`; None: the plain definition does."""
    implementation = dispatch.choose_loss(problem).implementation
    if implementation == "native":
        return native.rows_loss
    if implementation == "cuda":
        return cuda.rows_loss
    if implementation == "triton":  # imported here, because it imports triton
        from compressc.kernels.triton import losses

        return losses.rows_loss
    return None


def scale_rows(data: Tensor, scale: Tensor) -> None:
    """Multiply row i of a contiguous `[B, V]` tensor by `scale[i]`, in place."""
    implementation = dispatch.choose("scale_rows", data.device, data.dtype).implementation
    if implementation == "native":
        native.scale_rows(data, scale)
    elif implementation == "cuda":
        cuda.scale_rows(data, scale)
    elif implementation == "triton":
        from compressc.kernels.triton import scale_rows as kernel

        kernel.scale_rows(data, scale)
    else:
        data.mul_(scale.unsqueeze(-1))


def _register(name: str, arguments: str, pose: Callable[..., Problem]) -> None:
    """Define `compressc::name(student, arguments, weight?)` and its `_backward`.

    `pose` makes the problem of an operator's arguments.
    """
    schema = f"Tensor student, {arguments}, Tensor? weight=None"
    tags = (torch.Tag.pt2_compliant_tag,)
    count = schema.count(",") + 1

    def loss(*args: Any) -> Tensor:
        return loss_and_grad(pose(*args), want_grad=False)[0]

    def backward(upstream: Tensor, *args: Any) -> Tensor:
        problem = pose(*args)
        weight = upstream if problem.weight is None else upstream * problem.weight
        grad = loss_and_grad(problem._replace(weight=weight), want_grad=True)[1]
        assert grad is not None
        return grad

    def fake_loss(student: Tensor, *_: Any) -> Tensor:
        wide = student.dtype == torch.float64
        return student.new_empty(student.shape[0], dtype=torch.float64 if wide else torch.float32)

    def fake_grad(upstream: Tensor, student: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(student, memory_format=torch.contiguous_format)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.rest = [None if isinstance(x, Tensor) else x for x in inputs]
        ctx.save_for_backward(*[x if isinstance(x, Tensor) else None for x in inputs])

    def chain(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.rest, strict=True)
        args = [x if x is not None else other for x, other in pairs]
        operator = getattr(torch.ops.compressc, f"{name}_backward")
        return operator(upstream, *args), *([None] * (count - 1))

    LIBRARY.define(f"{name}({schema}) -> Tensor", tags=tags)
    LIBRARY.define(f"{name}_backward(Tensor upstream, {schema}) -> Tensor", tags=tags)
    LIBRARY.impl(name, loss, "CompositeExplicitAutograd")
    LIBRARY.impl(f"{name}_backward", backward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"compressc::{name}", fake_loss, lib=LIBRARY)
    torch.library.register_fake(f"compressc::{name}_backward", fake_grad, lib=LIBRARY)
    torch.library.register_autograd(f"compressc::{name}", chain, setup_context=setup, lib=LIBRARY)


def call(problem: Problem) -> Tensor:
    """The registered operator that solves `problem`: loss `[B]`."""
    student, teacher, temperature, weight, direction, labels, kl_share, smoothing, scale = problem
    operators = torch.ops.compressc
    if isinstance(teacher, TopK):
        loss = operators.softmax_kl_topk(student, *teacher, temperature, weight)
    elif labels is None:
        loss = operators.softmax_kl(student, teacher, temperature, direction, weight)
    else:
        loss = operators.softmax_kl_ce(
            student, teacher, labels, temperature, kl_share, smoothing, weight
        )
    return cast("Tensor", loss if scale == 1.0 else loss * scale)


_register(
    "softmax_kl",
    'Tensor teacher, float temperature, str direction="forward"',
    lambda student, teacher, temperature, direction="forward", weight=None: Problem(
        student, teacher, temperature, weight, direction
    ),
)
_register(
    "softmax_kl_ce",
    "Tensor teacher, Tensor labels, float temperature, float kl_share, float smoothing",
    lambda student, teacher, labels, temperature, kl_share, smoothing, weight=None: Problem(
        student, teacher, temperature, weight, "forward", labels, kl_share, smoothing
    ),
)
_register(
    "softmax_kl_topk",
    "Tensor values, Tensor indices, Tensor tail, float temperature",
    lambda student, values, indices, tail, temperature, weight=None: Problem(
        student, TopK(values, indices, tail), temperature, weight
    ),
)
