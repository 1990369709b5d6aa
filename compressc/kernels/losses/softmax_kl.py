"""The distillation losses as users call them.

In eager mode one kernel pass gives the loss and its gradient, and backward only applies the
upstream factor (`one_pass.py`). Under torch.compile and torch.export the registered operators run,
under torch.func (grad, vmap, jvp of any order) the plain definitions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels import native, reference
from compressc.kernels.losses import one_pass, operators
from compressc.kernels.losses.problem import Direction, Problem, TopK, mean_weight

Reduction = Literal["none", "sum", "mean"]


def softmax_kl(  # noqa: PLR0913 - one loss, its options by keyword
    student: Tensor,
    teacher: Tensor | TopK,
    temperature: float = 1.0,
    *,
    direction: Direction = "forward",
    weight: Tensor | None = None,
    reduction: Reduction = "none",
) -> Tensor:
    """`T^2 * D(softmax(teacher/T), softmax(student/T))` from raw logits (Hinton et al. 2015).

    Args:
        student: raw logits `[..., V]`, any float dtype; the one argument that gets a gradient.
        teacher: raw logits of the same shape, any float dtype; or their `TopK`, and then the loss
            is the KL of k + 1 events: the known tokens, and all others together.
        temperature: T > 0; the factor T^2 keeps gradients of one size whatever T is.
        direction: "forward" KL(teacher || student), "reverse" KL(student || teacher), or
            "jensen_shannon".
        weight: `[...]`, a factor for each row. A row of weight 0 is ignored, whatever it holds.
        reduction: "none" gives `[...]`; "sum"; "mean" divides by the sum of the weights. With "sum"
            and "mean" the gradient needs no second pass over memory: prefer them to `.mean()`.

    Returns:
        float32 (float64 for a float64 student). A logit of -inf has probability 0. Rows with no
        other logit, on either side, give 0. A token masked by one side alone gives inf where the
        divergence is infinite; the gradient stays finite.

    Raises:
        CompresscError: CC204 if shapes or devices do not fit, CC100 for a bad option.
    """
    if isinstance(teacher, TopK) and direction != "forward":
        raise CompresscError("CC100", "a top-k teacher has one direction, forward", got=direction)
    scale = _scale(student, weight, reduction)
    problem = Problem(student, teacher, temperature, weight, direction, scale=scale)
    return _solve(problem, reduction)


def softmax_kl_ce(  # noqa: PLR0913 - one loss, its options by keyword
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    *,
    kl_share: float = 0.5,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
) -> Tensor:
    """`kl_share * softmax_kl + (1 - kl_share) * cross_entropy(student, labels)`, in one pass.

    Args:
        student: raw logits `[..., V]`.
        teacher: raw logits of the same shape.
        labels: int64 `[...]`; a negative one (-100, say) leaves the row its first term alone.
        temperature: T > 0, of the first term. The second is at temperature 1.
        kl_share: in [0, 1].
        label_smoothing: in [0, 1), as `torch.nn.functional.cross_entropy` has it.
        weight: as in `softmax_kl`, like `reduction` and what is returned.
        reduction: see `softmax_kl`.

    Raises:
        CompresscError: CC204 if shapes, devices or labels do not fit, CC100 for a bad option.
    """
    if not 0.0 <= kl_share <= 1.0 or not 0.0 <= label_smoothing < 1.0:
        got = f"kl_share {kl_share}, label_smoothing {label_smoothing}"
        raise CompresscError(
            "CC100", "kl_share must be in [0, 1], label_smoothing in [0, 1)", got=got
        )
    scale = _scale(student, weight, reduction)
    problem = Problem(
        student, teacher, temperature, weight, "forward", labels, kl_share, label_smoothing, scale
    )
    return _solve(problem, reduction)


def _scale(student: Tensor, weight: Tensor | None, reduction: Reduction) -> float:
    """Of every row's loss: 1 / rows for a mean, unless the weights see to that."""
    if reduction != "mean" or weight is not None:
        return 1.0
    # torch.Size.numel() would fix a traced size.
    rows = student.shape[0] if student.dim() == 2 else math.prod(student.shape[:-1])
    return 1.0 / max(rows, 1)


def _solve(problem: Problem, reduction: Reduction) -> Tensor:
    _check(problem)
    shape = problem.student.shape[:-1]
    flat = len(shape) == 1
    if not flat:
        problem = _flat(problem)
    if reduction == "mean" and problem.weight is not None:
        problem = problem._replace(weight=mean_weight(problem.weight))
    reduce = reduction != "none"
    loss = one_pass.solve(problem, reduce)
    if loss is not None:
        return loss if reduce or flat else loss.reshape(shape)
    if torch._C._are_functorch_transforms_active():
        loss = reference.rows_loss(problem)
    else:
        loss = operators.call(problem)
    return loss.sum() if reduce else loss.reshape(shape)


def _flat(problem: Problem) -> Problem:
    """All rows in one dimension: views where strides allow, copies where not."""
    rows = problem.student.shape[:-1].numel()
    teacher = problem.teacher
    if isinstance(teacher, TopK):
        k = teacher.values.shape[-1]
        values, indices = teacher.values.reshape(rows, k), teacher.indices.reshape(rows, k)
        teacher = TopK(values, indices, teacher.tail.reshape(rows))
    else:
        teacher = teacher.reshape(rows, teacher.shape[-1])
    return problem._replace(
        student=problem.student.reshape(rows, problem.student.shape[-1]),
        teacher=teacher,
        weight=None if problem.weight is None else problem.weight.reshape(rows),
        labels=None if problem.labels is None else problem.labels.reshape(rows),
    )


def _check(problem: Problem) -> None:
    student, teacher = problem.student, problem.teacher
    if isinstance(teacher, TopK):
        logits, fits = teacher.values, _topk_fits(student, teacher)
    else:
        logits, fits = teacher, student.shape == teacher.shape and student.dim() > 0
    if not fits:
        got = f"student {list(student.shape)}, teacher {list(logits.shape)}"
        raise CompresscError("CC204", "student and teacher logits must have one shape", got=got)
    if not (student.is_cpu and logits.is_cpu) and student.device != logits.device:
        got = f"{student.device} and {logits.device}"
        raise CompresscError("CC204", "student and teacher must be on one device", got=got)
    if problem.weight is not None:
        _check_per_row("weight", problem.weight, student)
    if problem.labels is not None:
        _check_per_row("labels", problem.labels, student)
    if problem.direction not in native.DIRECTIONS:
        wanted = f"direction must be one of {', '.join(native.DIRECTIONS)}"
        raise CompresscError("CC100", wanted, got=str(problem.direction))
    if not problem.temperature > 0:
        raise CompresscError("CC100", "temperature must be above 0", got=str(problem.temperature))


def _topk_fits(student: Tensor, teacher: TopK) -> bool:
    if student.dim() == 0 or teacher.values.shape != teacher.indices.shape:
        return False
    rows = student.shape[:-1]
    return teacher.values.shape[:-1] == rows and teacher.tail.shape == rows


def _check_per_row(name: str, rows: Tensor, student: Tensor) -> None:
    if rows.shape != student.shape[:-1]:
        got = f"{list(rows.shape)} for {list(student.shape)}"
        raise CompresscError("CC204", f"{name} must have one entry per row", got=got)
