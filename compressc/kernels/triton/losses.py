"""Starts the Triton loss kernels."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from compressc.kernels.losses.problem import Problem, TopK, gradient_of, rows_of
from compressc.kernels.native import DIRECTIONS
from compressc.kernels.triton.softmax_kl import BLOCK, REGISTERS, WARPS, softmax_kl_rows
from compressc.kernels.triton.topk_kl import topk_kl_rows


def rows_loss(
    problem: Problem, want_grad: bool, reduce: bool, in_place: bool = False
) -> tuple[Tensor, Tensor | None]:
    """As `native.rows_loss`, without waiting for the device.

    A label or index that is not below V makes its row NaN: to raise, one would have to wait.
    """
    student = rows_of(problem.student)
    rows = student.shape[0]
    loss = torch.empty(rows, dtype=torch.float32, device=student.device)
    grad = gradient_of(student, in_place) if want_grad else None
    if rows > 0:
        start = _start_topk if isinstance(problem.teacher, TopK) else _start
        start(problem._replace(student=student), loss, grad)
    return (loss.sum() if reduce else loss), grad


def _start(problem: Problem, loss: Tensor, grad: Tensor | None) -> None:
    assert isinstance(problem.teacher, Tensor)
    student, teacher = problem.student, rows_of(problem.teacher)
    rows, vocab = student.shape
    labels = problem.labels
    softmax_kl_rows[(rows,)](
        student,
        teacher,
        _row_weights(problem, loss),
        loss if labels is None else labels.to(torch.int64).contiguous(),
        loss,
        loss if grad is None else grad,
        vocab,
        student.stride(0),
        teacher.stride(0),
        float(problem.temperature),
        float(problem.scale),
        float(problem.kl_share),
        float(problem.smoothing),
        HAS_WEIGHT=problem.weight is not None,
        LABELS=labels is not None,
        DIRECTION=DIRECTIONS[problem.direction],
        WANT_GRAD=grad is not None,
        **_shape(vocab),
    )


def _start_topk(problem: Problem, loss: Tensor, grad: Tensor | None) -> None:
    assert isinstance(problem.teacher, TopK)
    student, teacher = problem.student, problem.teacher
    rows, vocab = student.shape
    k = teacher.values.shape[1]
    if k == 0:  # nothing known, nothing taught
        loss.zero_()
        if grad is not None:
            grad.zero_()
        return
    topk_kl_rows[(rows,)](
        student,
        teacher.values.float().contiguous(),
        teacher.indices.to(torch.int64).contiguous(),
        teacher.tail.float().contiguous(),
        _row_weights(problem, loss),
        loss,
        loss if grad is None else grad,
        vocab,
        k,
        student.stride(0),
        float(problem.temperature),
        float(problem.scale),
        HAS_WEIGHT=problem.weight is not None,
        WANT_GRAD=grad is not None,
        KNOWN=triton.next_power_of_2(k),
        **_shape(vocab),
    )


def _row_weights(problem: Problem, unused: Tensor) -> Tensor:
    return unused if problem.weight is None else problem.weight.float().contiguous()


def _shape(vocab: int) -> dict[str, int]:
    block = min(BLOCK, triton.next_power_of_2(max(vocab, 16)))
    warps = max(4, WARPS * block // BLOCK)
    return {"BLOCK": block, "num_warps": warps, "maxnreg": REGISTERS}
