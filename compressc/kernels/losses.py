"""The distillation losses as users call them: checks, reductions, and the one-pass gradient.

In eager mode one kernel pass gives the loss and its gradient, and backward only applies the
upstream factor. Under torch.compile and torch.export the registered operators run, under torch.func
(grad, vmap, jvp of any order) the plain definitions.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressc.errors import CompresscError
from compressc.kernels import dispatch, native, ops, reference
from compressc.kernels.problem import Problem

Reduction = Literal["none", "sum", "mean"]


def softmax_kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
) -> Tensor:
    """`T^2 * KL(softmax(teacher/T) || softmax(student/T))` from raw logits (Hinton et al. 2015).

    Args:
        student: raw logits `[..., V]`, any float dtype; the one argument that gets a gradient.
        teacher: raw logits of the same shape, any float dtype.
        temperature: T > 0; the factor T^2 keeps gradients of one size whatever T is.
        weight: `[...]`, a factor for each row. A row of weight 0 is ignored, whatever it holds.
        reduction: "none" gives `[...]`; "sum"; "mean" divides by the sum of the weights. With "sum"
            and "mean" the gradient needs no second pass over memory: prefer them to `.mean()`.

    Returns:
        float32 (float64 for a float64 student). A logit of -inf has probability 0. Rows with no
        other logit, on either side, give 0; a token that the student alone masks gives inf.

    Raises:
        CompresscError: CC204 if shapes or devices do not fit, CC100 for a bad temperature.
    """
    _check(student, teacher, temperature, weight)
    shape = student.shape[:-1]
    if len(shape) != 1:
        student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)  # a view, or a copy
        weight = None if weight is None else weight.flatten()
    scale = 1.0
    if reduction == "mean":
        scale, weight = _mean_factors(student.shape[0], weight)
    problem = Problem(student, teacher, temperature, weight, scale)
    loss = _rows_loss(problem)
    if reduction != "none":
        return loss.sum()
    return loss.reshape(shape) if len(shape) != 1 else loss


def _rows_loss(problem: Problem) -> Tensor:
    student, teacher, temperature, weight, scale = problem
    if _one_pass(student, teacher):
        loss: Tensor = _apply(student, problem)
        return loss
    if torch._C._are_functorch_transforms_active():
        return scale * reference.softmax_kl(student, teacher, temperature, weight)
    loss = torch.ops.compressc.softmax_kl(student, teacher, temperature, weight)
    return loss * scale


class _OnePass(torch.autograd.Function):
    """Loss and gradient in one pass; the gradient waits, in the student's dtype, for backward."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, problem: Problem) -> Tensor:
        """`_` is the student again: autograd looks for tensors among the arguments only."""
        loss, grad = ops.loss_and_grad(problem, ctx.needs_input_grad[0])
        if grad is not None:
            ctx.save_for_backward(grad)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        constant = all(stride == 0 for stride in upstream.stride())
        if not constant or upstream.flatten()[0].item() != 1.0:
            grad = _scaled(grad, upstream.expand(grad.shape[0]))
        return grad, None


# torch.autograd.Function is untyped.
_apply: Any = cast("Any", _OnePass).apply


def _scaled(grad: Tensor, upstream: Tensor) -> Tensor:
    """`grad * upstream[:, None]`, in place when this was the last use of the graph."""
    keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
    if keep_graph():
        grad = grad.clone()
    native.scale_rows(grad, upstream)
    return grad


def _one_pass(student: Tensor, teacher: Tensor) -> bool:
    """Whether the eager shortcut may run.

    Not for float16: a gradient rounded before the loss scaler's factor is applied underflows.
    """
    if torch.compiler.is_compiling() or type(student) not in (Tensor, torch.nn.Parameter):
        return False
    if student.dtype not in (torch.float32, torch.bfloat16) or student.numel() == 0:
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active():
        return False
    row = dispatch.choose("softmax_kl", student.device, student.dtype, teacher.dtype)
    return row.implementation == "native"


def _mean_factors(rows: int, weight: Tensor | None) -> tuple[float, Tensor | None]:
    if weight is None:
        return 1.0 / max(rows, 1), None
    total = weight.sum(dtype=torch.float32)
    return 1.0, weight / torch.where(total == 0, 1.0, total)


def _check(student: Tensor, teacher: Tensor, temperature: float, weight: Tensor | None) -> None:
    if student.dim() == 0 or student.shape != teacher.shape:
        got = f"student {list(student.shape)}, teacher {list(teacher.shape)}"
        raise CompresscError("CC204", "student and teacher logits must have one shape", got=got)
    if weight is not None and weight.shape != student.shape[:-1]:
        got = f"{list(weight.shape)} for {list(student.shape)}"
        raise CompresscError("CC204", "weight must have one entry per row", got=got)
    if student.device != teacher.device:
        got = f"{student.device} and {teacher.device}"
        raise CompresscError("CC204", "student and teacher must be on one device", got=got)
    if not temperature > 0:
        raise CompresscError("CC100", "temperature must be above 0", got=str(temperature))
