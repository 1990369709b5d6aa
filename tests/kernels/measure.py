"""How a loss and its gradient are measured: ours two ways, float64, and plain float32 torch."""

from collections.abc import Callable

import torch
from torch import Tensor

from compressc.kernels import reference
from compressc.kernels.losses.gradients import rows_grad
from compressc.kernels.losses.problem import Problem, TopK

#: dtype -> unit roundoff
FLOATS = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}

Loss = Callable[[Tensor], Tensor]  # student logits [B, V] -> [B]


def exactly(problem: Problem) -> tuple[Tensor, Tensor]:
    """Losses and gradients of the rows by the closed forms in float64."""
    teacher = problem.teacher
    if isinstance(teacher, TopK):
        teacher = TopK(teacher.values.double(), teacher.indices, teacher.tail.double())
    else:
        teacher = teacher.double()
    wide = problem._replace(student=problem.student.double(), teacher=teacher)
    return reference.rows_loss(wide), rows_grad(wide)


def solve(loss: Loss, student: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each row, and the gradient of their sum weighted by `upstream`."""
    leaf = student.detach().requires_grad_()
    rows = loss(leaf)
    return rows.detach(), torch.autograd.grad(rows, leaf, upstream.to(rows.dtype))[0]


def assert_as_good(
    ours: Tensor, plain: Tensor, exact: Tensor, unit: float, times: int, floor: float
) -> None:
    """At most `times` the largest error of plain float32 torch, which over a few rows can be lucky:
    so a few roundings are allowed as well, `unit` of the value and `floor`."""
    error = (ours.double() - exact).abs()
    allowed = times * (plain.double() - exact).abs().max() + unit * exact.abs() + floor
    assert bool((error <= allowed).all()), f"{error.max():.3g} > {allowed.min():.3g}"


def assert_as_exact_as_plain(
    ours: tuple[Tensor, Tensor],
    textbook: Loss,
    student: Tensor,
    upstream: Tensor,
    times: int = 2,
    floor: float = 2**-24,
) -> None:
    """`ours` (loss, gradient) against the textbook formula in float64 and in float32."""
    loss, grad = ours
    assert loss.dtype == torch.float32
    assert grad.dtype == student.dtype
    exact_loss, exact_grad = solve(textbook, student.double(), upstream)
    plain_loss, plain_grad = solve(textbook, student.float(), upstream)
    assert_as_good(loss, plain_loss, exact_loss, 2**-22, times, floor)
    # bf16 gradients are rounded once more when the upstream factor comes later.
    unit = max(2 * FLOATS[student.dtype], 2**-22)
    assert_as_good(grad, plain_grad, exact_grad, unit, times, floor)
