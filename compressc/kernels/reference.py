"""Every operator's definition in plain torch: differentiable, any device, any dtype, slow.

float64 stays float64 (the tests measure against it); everything else is computed in float32. The
closed-form gradients of `losses/gradients.py` are for where autograd cannot record.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressc.kernels.losses.problem import Direction, Problem, TopK

INF = float("inf")


def rows_loss(problem: Problem) -> Tensor:
    """The loss `[B]` of any problem, by the definitions below."""
    student, teacher, temperature, weight, *_ = problem
    if isinstance(teacher, TopK):
        loss = topk_kl(student, teacher, temperature, weight)
    elif problem.labels is None:
        loss = softmax_kl(student, teacher, temperature, weight, problem.direction)
    else:
        mix = (problem.kl_share, problem.smoothing)
        if weight is not None:  # an absent row may hold anything, NaN too
            student = student.masked_fill((weight == 0).unsqueeze(-1), -INF)
        loss = softmax_kl_ce(student, teacher, problem.labels, temperature, mix)
        loss = loss if weight is None else loss * weight.detach().to(loss.dtype)
    return loss * problem.scale


def softmax_kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    direction: Direction = "forward",
) -> Tensor:
    """`T^2 * weight * D(p, q)` of each row, p and q the softmax of teacher/T and student/T.

    D is `KL(p || q)` (forward; Hinton, Vinyals, Dean 2015), `KL(q || p)` (reverse), or
    `(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2` (jensen_shannon).

    Args:
        student: raw logits `[B, V]`; the only argument that gets a gradient.
        teacher: raw logits `[B, V]`.
        temperature: T > 0.
        weight: `[B]`, factor of each row; a row of weight 0 counts as absent, whatever it holds.
        direction: see above.

    Returns:
        `[B]`, float32 (float64 if the student is). A logit of -inf has probability 0; a row where
        either side has no other logit gives 0; a token that only one side masks can give inf.
    """
    student, teacher, absent = prepared(student, teacher, weight)
    log_q = torch.log_softmax(student / temperature, dim=-1)
    log_p = torch.log_softmax(teacher / temperature, dim=-1)
    if direction == "forward":
        loss = divergence(log_p, log_q)
    elif direction == "reverse":
        loss = divergence(log_q, log_p)
    else:
        log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.full_like(log_p, 2.0))
        loss = (divergence(log_p, log_m) + divergence(log_q, log_m)) / 2
    return weighted(loss * temperature**2, absent, weight)


def softmax_kl_ce(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    mix: tuple[float, float],
) -> Tensor:
    """`kl_share * T^2 * KL(p || q) + (1 - kl_share) * cross_entropy(student, labels)`, `[B]`.

    The cross-entropy is at temperature 1. `mix` is (kl_share, label smoothing); a negative label
    means that the row has none, and leaves the first term. Otherwise as `softmax_kl`.
    """
    kl_share, smoothing = mix
    soft = softmax_kl(student, teacher, temperature)
    student, _, absent = prepared(student, teacher, None)
    target = labels.clamp(min=-1)
    hard = F.cross_entropy(
        student, target, reduction="none", label_smoothing=smoothing, ignore_index=-1
    )
    return kl_share * soft + (1 - kl_share) * hard.masked_fill(absent, 0.0)


def topk_kl(
    student: Tensor, teacher: TopK, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """`T^2 * weight * KL` of k + 1 events: each of the k known places, and all others together.

    Never more than the full KL (data-processing inequality), equal to it for k = V. Otherwise as
    `softmax_kl`; `student` is `[B, V]`, the teacher's parts `[B, k]`, `[B, k]` and `[B]`.
    """
    student, values, absent = prepared(student, teacher.values, weight)
    log_p, log_q = topk_events(student, values, teacher, temperature)
    return weighted(divergence(log_p, log_q) * temperature**2, absent, weight)


def topk_events(
    student: Tensor, values: Tensor, teacher: TopK, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities `[B, k + 1]` of teacher and student, the pooled rest last."""
    tail = teacher.tail.detach().to(values.dtype).unsqueeze(-1)
    log_p = torch.log_softmax(values / temperature, dim=-1) + torch.log1p(-tail)
    log_q = torch.log_softmax(student / temperature, dim=-1)
    others = torch.ones_like(log_q, dtype=torch.bool).scatter(-1, teacher.indices, False)
    pooled = torch.logsumexp(log_q.masked_fill(~others, -INF), dim=-1, keepdim=True)
    known = log_q.gather(-1, teacher.indices)
    return torch.cat([log_p, tail.log()], -1), torch.cat([known, pooled], -1)


def lowrank_linear(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ v.T @ u.T + bias`: a linear layer whose weight is `u @ v`.

    Args:
        x: `[..., in]`.
        v: `[r, in]`, the first factor, as `nn.Linear(in, r, bias=False)` stores it.
        u: `[out, r]`, the second.
        bias: `[out]`.

    Returns:
        `[..., out]`.
    """
    return F.linear(F.linear(x, v), u, bias)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`KL(p || q)` of each row; where p is 0 a term is 0, whatever q is."""
    p = log_p.exp()
    gap = torch.where(p == 0, 0.0, log_p - log_q)
    return (p * gap).sum(dim=-1)


def prepared(
    student: Tensor, teacher: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Both logits in working precision, absent rows replaced by zeros, and which those are."""
    student, teacher = _working(student), _working(teacher.detach())
    absent = (student == -INF).all(dim=-1) | (teacher == -INF).all(dim=-1)
    if weight is not None:
        absent = absent | (weight == 0)
    fill = absent.unsqueeze(-1)
    return student.masked_fill(fill, 0.0), teacher.masked_fill(fill, 0.0), absent


def weighted(loss: Tensor, absent: Tensor, weight: Tensor | None) -> Tensor:
    """The loss of each row times its weight; 0 for absent ones."""
    loss = loss.masked_fill(absent, 0.0)
    return loss if weight is None else loss * weight.detach().to(loss.dtype)


def _working(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
