"""Every operator's definition in plain torch: differentiable, any device, any dtype, slow.

float64 stays float64 (the tests measure against it); everything else is computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_kl(
    student: Tensor, teacher: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """`T^2 * weight * KL(softmax(teacher/T) || softmax(student/T))` of each row (Hinton 2015).

    Args:
        student: raw logits `[B, V]`; the only argument that gets a gradient.
        teacher: raw logits `[B, V]`.
        temperature: T > 0.
        weight: `[B]`, factor of each row; a row of weight 0 counts as absent, whatever it holds.

    Returns:
        `[B]`, float32 (float64 if the student is). A logit of -inf has probability 0; a row where
        either side has no other logit gives 0; a token that only the student masks gives inf.
    """
    student, teacher, absent = _prepared(student, teacher, weight)
    log_q = torch.log_softmax(student / temperature, dim=-1)
    log_p = torch.log_softmax(teacher / temperature, dim=-1)
    p = log_p.exp()
    loss = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(dim=-1) * temperature**2
    loss = loss.masked_fill(absent, 0.0)
    return loss if weight is None else loss * weight.to(loss.dtype)


def softmax_kl_grad(
    student: Tensor, teacher: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """The gradient `[B, V]` of `softmax_kl(...).sum()`: `T * weight * (q - p)`, in closed form.

    For where autograd cannot record, inside an operator's own implementation.
    """
    dtype = student.dtype
    student, teacher, absent = _prepared(student, teacher, weight)
    q = torch.softmax(student / temperature, dim=-1)
    grad = (q - torch.softmax(teacher / temperature, dim=-1)) * temperature
    grad = grad.masked_fill(absent.unsqueeze(-1), 0.0)
    return (grad if weight is None else grad * weight.to(grad.dtype).unsqueeze(-1)).to(dtype)


def _prepared(
    student: Tensor, teacher: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Both logits in working precision, absent rows replaced by zeros, and which those are."""
    student, teacher = _working(student), _working(teacher.detach())
    absent = _masked(student) | _masked(teacher)
    if weight is not None:
        absent = absent | (weight == 0)
    fill = absent.unsqueeze(-1)
    return student.masked_fill(fill, 0.0), teacher.masked_fill(fill, 0.0), absent


def _working(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _masked(logits: Tensor) -> Tensor:
    return (logits == float("-inf")).all(dim=-1)
