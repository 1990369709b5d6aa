"""How strongly each term of a loss pulls at the student when a run begins."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressc import processes
from compressc.distillation.lesson import Teaching
from compressc.distillation.loss import Loss
from compressc.distillation.seen import Seen, mapped
from compressc.errors import CompresscError
from compressc.kernels import TopK
from compressc.training import Drawn

#: Batches that `weights=auto` looks at.
BATCHES = 4


def gradient_norms(teaching: Teaching, batches: Iterable[Drawn]) -> dict[str, float]:
    """Of each term without its weight: root mean square over batches of its gradient's norm.

    By the student's parameters; what objectives learn themselves does not count. Nothing is
    changed: batch norms and dropout are at rest.
    """
    squares: dict[str, list[Tensor]] = {}
    loss = _apart(teaching.loss)
    with _watched(teaching.student.module) as parameters:
        for batch in batches:
            seen = teaching.seen_of(teaching.student.module, batch)
            for name, term in loss.separate(seen).items():
                squares.setdefault(name, []).append(_square(term, parameters))
    means = {name: torch.stack(found).mean() for name, found in squares.items()}
    processes.average(list(means.values()))
    return {name: float(mean) ** 0.5 for name, mean in means.items()}


def balanced(loss: Loss, norms: Mapping[str, float]) -> Loss:
    """With weights by which the gradients of all terms are as their weights were.

    The first term that has a gradient keeps its weight, so that the others have `weight * norm` of
    the size that theirs has to its own; a term without a gradient keeps what it was given.
    """
    first = next((norm for norm in norms.values() if norm > 0), 1.0)
    return loss.rescaled({name: first / norm if norm > 0 else 1.0 for name, norm in norms.items()})


def without_effect(teaching: Teaching, batches: Iterable[Drawn]) -> list[str]:
    """Names of the terms that no parameter of the student depends on, whatever the teacher says.

    A term is at rest where the student already is the teacher, so one without a gradient is asked
    again with the teacher's answers to other samples.
    """
    loss = _apart(teaching.loss)
    idle = set(loss.names)
    with _watched(teaching.student.module) as parameters:
        for batch in batches:
            seen = teaching.seen_of(teaching.student.module, batch)
            for of in (seen, _mistaken(seen)):
                if not idle:
                    return []
                terms = loss.separate(of)
                idle -= {name for name in idle if bool(_square(terms[name], parameters) != 0)}
    return [name for name in loss.names if name in idle]


def refuse(names: Iterable[str], where: str) -> None:
    """The error for terms without effect.

    Raises:
        CompresscError: CC506, where there are any.
    """
    found = ", ".join(names)
    if found:
        wanted = "every term of the loss moves a weight of the student"
        hint = "leave it out, or see where its gradient ends: compressc inspect --for distill"
        raise CompresscError(
            "CC506", wanted, got=f"no gradient from {found}", where=where, hint=hint
        )


def _apart(loss: Loss) -> Loss:
    """With copies of what objectives learn and remember: to look is not to train."""
    return replace(loss, own=copy.deepcopy(loss.own))


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The parameters, with gradients on inside; in eval mode."""
    module.eval()
    parameters = [p for p in module.parameters() if p.is_floating_point()]
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield parameters
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


def _square(term: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """The squared norm of a term's gradient, a scalar; 0 where nothing depends on it."""
    if not term.requires_grad:
        return torch.zeros((), device=term.device)
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    parts = [slope.float().pow(2).sum() for slope in found if slope is not None]
    return torch.stack(parts).sum() if parts else torch.zeros((), device=term.device)


def _mistaken(seen: Seen) -> Seen:
    """With the teacher's answers to the sample before, as if it took one for the other."""

    def turned(name: str, value: Tensor) -> Tensor:
        return value.roll(1, 0)

    teacher = mapped(turned, seen.teacher)
    if teacher.largest is not None:
        teacher = replace(teacher, largest=TopK(*(x.roll(1, 0) for x in teacher.largest)))
    return replace(seen, teacher=teacher)
