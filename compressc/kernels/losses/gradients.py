"""Closed-form gradients of the definitions in `reference.py`, without autograd.

Inside an operator's own implementation autograd does not record; these run there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressc.kernels.losses.problem import Problem, TopK
from compressc.kernels.reference import INF, prepared, topk_events


def rows_grad(problem: Problem) -> Tensor:
    """The gradient `[B, V]` of `reference.rows_loss(problem).sum()`, in the student's dtype."""
    student, teacher, temperature, weight, *_ = problem
    logits = teacher.values if isinstance(teacher, TopK) else teacher
    ready, logits, absent = prepared(student, logits, weight)
    if isinstance(teacher, TopK):
        grad = temperature * _topk(ready, logits, teacher, temperature)
    else:
        grad = temperature * _divergence(ready / temperature, logits / temperature, problem)
        if problem.labels is not None:
            hard = _cross_entropy(ready, problem.labels, problem.smoothing)
            grad = problem.kl_share * grad + (1 - problem.kl_share) * hard
    grad = grad.masked_fill(absent.unsqueeze(-1), 0.0) * problem.scale
    if weight is not None:
        grad = grad * weight.to(grad.dtype).unsqueeze(-1)
    return grad.to(student.dtype)


def _divergence(student: Tensor, teacher: Tensor, problem: Problem) -> Tensor:
    """`q (slope - sum(q slope))`, slope being the derivative of the divergence by q."""
    q, p = torch.softmax(student, dim=-1), torch.softmax(teacher, dim=-1)
    if problem.direction == "forward":
        return q - p
    log_q, log_p = torch.log_softmax(student, dim=-1), torch.log_softmax(teacher, dim=-1)
    if problem.direction == "reverse":
        slope = log_q - log_p
    else:
        log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.full_like(log_p, 2.0))
        slope = (log_q - log_m) / 2
    pull = torch.where(q == 0, 0.0, q * slope)
    mean = pull.sum(dim=-1, keepdim=True)
    grad = pull - q * mean
    return grad.masked_fill(mean == INF, 0.0)  # an infinite loss has no finite slope


def _cross_entropy(student: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    vocab = student.shape[-1]
    target = F.one_hot(labels.clamp(min=0), vocab).to(student.dtype)
    target = target * (1 - smoothing) + smoothing / max(vocab, 1)
    grad = torch.softmax(student, dim=-1) - target
    return grad.masked_fill((labels < 0).unsqueeze(-1), 0.0)


def _topk(student: Tensor, values: Tensor, teacher: TopK, temperature: float) -> Tensor:
    log_p, log_q = topk_events(student, values, teacher, temperature)
    q = torch.softmax(student / temperature, dim=-1)
    rest, tail = log_q[:, -1:].exp(), log_p[:, -1:].exp()
    outside = torch.where(rest == 0, 0.0, q - q * tail / rest)
    known = log_q[:, :-1].exp() - log_p[:, :-1].exp()
    return outside.scatter(-1, teacher.indices, known)
