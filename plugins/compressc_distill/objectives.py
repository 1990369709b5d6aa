"""Distillation losses by name; `compressc.distillation.objective` states the contract."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import in_one_pass
from compressc.errors import CompresscError
from compressc.kernels import softmax_kl, softmax_kl_ce
from compressc.training import LEAST_VARIANCE, scaled_error

#: Weight of what the teacher says about the other classes in `dkd`. The paper takes up to 10, more
#: for a more confident teacher.
DKD_BETA = 8.0


@in_one_pass(softmax_kl_ce)
def kd(student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher/T) || softmax(student/T)).

    Hinton, Vinyals and Dean 2015, section 2; T^2 keeps the gradient of one size whatever T is.

    Raises:
        CompresscError: CC301 for a single class, whose softmax is 1 whatever the logit.
    """
    if student.shape[-1] < 2:
        raise CompresscError(
            "CC301",
            "objective 'kd' needs 2 classes or more",
            got=str(student.shape[-1]),
            hint="distill(objective=scaled_mse)",
        )
    return softmax_kl(student, teacher, temperature, reduction="mean")


def mse_logits(
    student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float
) -> Tensor:
    """Mean squared difference of the raw logits; the temperature has no part (Kim et al. 2021).

    Up to a factor and the mean of each row the limit of `kd` for a high temperature (Hinton et al.
    2015, eq. 4). Works for outputs that are no class scores, too.
    """
    return F.mse_loss(student, teacher)


def scaled_mse(
    student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float
) -> Tensor:
    """Mean squared difference over the teacher's variance: 1 for a constant guess.

    For values, whatever their unit is. The temperature has no part.
    """
    return scaled_error(student, teacher)


def bernoulli(
    student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float
) -> Tensor:
    """T^2 * KL of yes and no, each number by itself, the mean over all numbers.

    For independent scores before their sigmoid: a number z is the two classes z and 0.
    """
    pairs = (torch.stack([x, torch.zeros_like(x)], -1).flatten(0, -2) for x in (student, teacher))
    ours, theirs = pairs
    return softmax_kl(ours, theirs, temperature, reduction="mean")


def cosine(student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float) -> Tensor:
    """Mean of 1 - cos(student, teacher), over that of the teacher's mean direction.

    For embeddings, whose length says nothing; 1 for a constant guess. The temperature has no part.
    """
    mean = F.normalize(teacher.float(), dim=-1).mean(0)
    constant = (1 - F.cosine_similarity(teacher.float(), mean[None], dim=-1)).mean()
    missed = (1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean()
    return missed / constant.clamp_min(LEAST_VARIANCE)


def vectors(student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float) -> Tensor:
    """`cosine` + `scaled_mse`: for vectors whose direction counts, and whose length may."""
    return cosine(student, teacher, labels, temperature) + scaled_mse(
        student, teacher, labels, temperature
    )


def dkd(student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float) -> Tensor:
    """Decoupled distillation (Zhao et al. 2022, eq. 7): TCKD + beta * NCKD, times T^2.

    TCKD is the KL of (target, not target), NCKD that of the other classes among themselves. Rows
    without a label have the teacher's answer as their target.

    Raises:
        CompresscError: CC301 for fewer than 3 classes: NCKD needs two that are not the target.
    """
    if student.shape[-1] < 3:
        raise CompresscError(
            "CC301",
            "objective 'dkd' needs 3 classes or more",
            got=str(student.shape[-1]),
            hint="distill(objective=kd)",
        )
    target = teacher.argmax(-1)
    if labels is not None:
        target = torch.where(labels < 0, target, labels)
    is_target = F.one_hot(target, student.shape[-1]).bool()
    ours, theirs = (_target_or_not(x / temperature, is_target) for x in (student, teacher))
    target_loss = F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
    ours, theirs = (x[~is_target].view(len(x), -1) for x in (student, teacher))
    return target_loss + DKD_BETA * softmax_kl(ours, theirs, temperature, reduction="mean")


def _target_or_not(logits: Tensor, is_target: Tensor) -> Tensor:
    """log (p(target), p(not target)): `[n, v]` -> `[n, 2]`."""
    logs = logits.log_softmax(-1)
    infinity = float("inf")
    return torch.stack(
        [
            logs.masked_fill(~is_target, -infinity).logsumexp(-1),
            logs.masked_fill(is_target, -infinity).logsumexp(-1),
        ],
        dim=-1,
    )
