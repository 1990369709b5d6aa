"""A learning rate from model and data: how far the first step of AdamW may go.

The first step of Adam moves every parameter by the learning rate, against the sign of its gradient
(Kingma and Ba 2015, algorithm 1). Along that one direction the loss of other batches is looked at:
a net that has lost much may go far, one that is nearly right must not. It costs about as much as
a dozen steps, where a range test (Smith 2017) takes an epoch.
"""

from __future__ import annotations

import math
from itertools import islice

import torch
from torch import nn

from compressc.training.lesson import Batch, Lesson

#: Distances that are tried: 1e-5 to 2e-2, by factors of 2.
DISTANCES = tuple(1e-5 * 2**k for k in range(12))
#: Batches for the direction, and as many others for the loss.
PROBES = 2
#: The peak rate as a share of the best distance: many steps are taken, and not all in line.
SHARE = 0.5
#: Where nothing can be learned from the data.
DEFAULT = 1e-3


def find_rate(
    module: nn.Module, lesson: Lesson[Batch], parameters: list[nn.Parameter], seed: int
) -> float:
    """The peak learning rate for AdamW on this module and this data; the same for one seed.

    Weights and buffers are left changed: the caller puts them back.

    Args:
        module: as it stands at the start.
        lesson: its first batches are looked at.
        parameters: what will be trained.
        seed: of the order of the batches and of dropout.
    """
    taken = list(islice(lesson.batches.epoch(torch.Generator().manual_seed(seed)), 2 * PROBES))
    half = len(taken) // 2
    module.train()
    module.zero_grad(set_to_none=True)
    for batch in taken[: half or 1]:
        lesson.loss(module, batch).backward()  # type: ignore[no-untyped-call]
    moved = [p for p in parameters if p.grad is not None]
    for parameter in moved:
        assert parameter.grad is not None
        parameter.grad.sign_()
    best, least, done = 0.0, _loss(module, lesson, taken[half:], seed), 0.0
    if not math.isfinite(least):
        return DEFAULT
    for distance in DISTANCES:
        with torch.no_grad():
            for parameter in moved:
                parameter.sub_(parameter.grad, alpha=distance - done)  # type: ignore[arg-type]
        done = distance
        loss = _loss(module, lesson, taken[half:], seed)
        if loss < least:
            best, least = distance, loss
        elif not loss < 2 * least:
            break
    return SHARE * (best or DISTANCES[0])


@torch.no_grad()
def _loss(module: nn.Module, lesson: Lesson[Batch], batches: list[Batch], seed: int) -> float:
    torch.manual_seed(seed)  # the same units are dropped each time
    return sum(float(lesson.loss(module, batch)) for batch in batches)
