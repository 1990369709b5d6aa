"""The weights of the terms of a loss, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from compressc.distillation import Loss, Teaching
from compressc.distillation.influence import (
    BATCHES,
    balanced,
    gradient_norms,
    refuse,
    without_effect,
)
from compressc.training import SampleBatches


def weighed(
    teaching: Teaching, batches: SampleBatches, seed: int, auto: bool, tell: Callable[[str], None]
) -> Loss:
    """The loss of a run, every term of which moves the student.

    Args:
        teaching: with the loss as it was given.
        batches: of the run; the first ones are looked at.
        seed: of their order.
        auto: whether weights are relative to the norms of the gradients.
        tell: told which weights came of it.

    Raises:
        CompresscError: CC506 where a term has no effect.
    """
    refuse(without_effect(teaching, islice(batches.epoch(seed, 1), BATCHES)), "distill")
    if not auto:
        return teaching.loss
    norms = gradient_norms(teaching, islice(batches.epoch(seed, 1), BATCHES))
    loss = balanced(teaching.loss, norms)
    weights = [f"{loss.weight_of(name):.3g}*{name}" for name in loss.names]
    found = ", ".join(f"{name} {norm:.3g}" for name, norm in norms.items())
    tell(f"weights by the gradients at the start: {' + '.join(weights)} (norms: {found})")
    return loss
