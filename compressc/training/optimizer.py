"""Which parameters are trained, and by what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from compressc.training.sharding import is_shared
from compressc.training.two_momenta import TwoMomenta

if TYPE_CHECKING:
    from compressc.training.lesson import Recipe


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike.

    Attributes:
        parameters: at least one.
        rate: factor on the learning rate of the run.
        weight_decay: of matrices and filters among them; None for that of the run.
    """

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    weight_decay: float | None = None


def parameters_of(groups: Iterable[Group]) -> list[nn.Parameter]:
    """All that are trained, each once."""
    return list(dict.fromkeys(p for group in groups for p in group.parameters))


def optimizer_of(groups: Iterable[Group], recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with one momentum or two, as the recipe has it.

    What has one dimension, biases and norms, does not decay. Every group of the optimizer has
    `factor`, for the rate.
    """
    found = []
    for group in groups:
        decay = recipe.weight_decay if group.weight_decay is None else group.weight_decay
        matrices = [p for p in group.parameters if p.ndim > 1]
        vectors = [p for p in group.parameters if p.ndim <= 1]
        for parameters, own in ((matrices, decay), (vectors, 0.0)):
            if parameters:
                found.append({"params": parameters, "weight_decay": own, "factor": group.rate})
    if recipe.dot:
        return TwoMomenta(found, recipe.momentum, recipe.dot)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(found, lr=0.0, momentum=recipe.momentum)
    return torch.optim.AdamW(found, fused=_fusible(parameters_of(groups)) or None)


def _fusible(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether one kernel may do a step of all: a CPU's, for plain floats.

    Step by step in Python takes 1 ms for 30 small tensors. Elsewhere torch chooses by itself.
    """
    return all(
        p.device.type == "cpu" and p.is_floating_point() and not is_shared(p) for p in parameters
    )
