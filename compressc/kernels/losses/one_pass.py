"""Eager mode's way to a loss and its gradient: one pass over the logits for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from compressc.kernels.losses import operators
from compressc.kernels.losses.problem import Problem

_PLAIN = (Tensor, torch.nn.Parameter)
_DTYPES = (torch.float32, torch.bfloat16)


def solve(problem: Problem, reduce: bool) -> Tensor | None:
    """Loss `[B]` or its sum, differentiable once in the student; None where this way is closed.

    Not for float16: a gradient rounded before the loss scaler's factor is applied underflows. Not
    under anything that traces, transforms or intercepts tensors: those must see the operators.
    """
    student = problem.student
    if torch.compiler.is_compiling() or type(student) not in _PLAIN:
        return None
    if student.dtype not in _DTYPES or student.numel() == 0:
        return None
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active():
        return None
    rows_loss = operators.kernel(problem)
    if rows_loss is None:
        return None
    return cast("Tensor", _apply(student, problem, rows_loss, reduce))


class _OnePass(torch.autograd.Function):
    """The gradient is computed in forward and waits, in the student's dtype, for backward."""

    @staticmethod
    def forward(
        ctx: Any, _: Tensor, problem: Problem, rows_loss: operators.Kernel, reduce: bool
    ) -> Tensor:
        """`_` is the student again: autograd looks for tensors among the arguments only."""
        loss, grad = rows_loss(problem, ctx.needs_input_grad[0], reduce, False)
        if grad is not None:
            ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the one-pass softmax_kl is differentiable once; for higher derivatives use "
                "compressc.kernels.reference or torch.func"
            )
        (grad,) = ctx.saved_tensors
        if is_one(upstream):  # that of a sum or a mean
            return owned(grad), None, None, None
        return scaled(grad, upstream.expand(grad.shape[0])), None, None, None


def is_one(upstream: Tensor) -> bool:
    """Whether the upstream gradient is known to be 1 everywhere, so that nothing need be scaled."""
    if type(upstream) is not Tensor or not upstream.is_cpu:
        return False  # a traced value cannot be read, reading one of a GPU would wait for it
    if upstream.dim() != 0:
        if upstream.stride(0) != 0:
            return False
        upstream = upstream[0]
    return not torch.compiler.is_compiling() and upstream.item() == 1.0


# What `torch.autograd.Function.apply` calls after a look for functorch wrappers, which `solve` has
# taken already: 2 of the 45 microseconds of a small loss. Both are untyped.
_apply: Any = cast("Any", super(torch.autograd.Function, _OnePass)).apply


def owned(grad: Tensor) -> Tensor:
    """A saved gradient to hand out: its receiver may add to it, so a graph that stays keeps it."""
    return grad.clone() if _keeps_graph() else grad


def scaled(grad: Tensor, upstream: Tensor) -> Tensor:
    """`grad * upstream[:, None]`, in place when this was the last use of the graph.

    On a GPU the factors are looked at there, and rows with a factor of 1 are left alone.
    """
    grad = owned(grad)
    operators.scale_rows(grad, upstream)
    return grad


# Whether backward runs with retain_graph. A private name: without it, always copy.
_keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)
