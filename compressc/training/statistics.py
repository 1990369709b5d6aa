"""The statistics of batch norms, taken anew from data.

A cut changes what every norm behind it sees, but not the mean and variance the norm remembers from
the uncut net; and the running averages of a short training follow weights that have moved on. A
pass over data without gradients mends both (Li et al. 2020, EagleEye, section 3.3, "adaptive batch
normalization"); right after pruning it is worth tens of points of accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Values of a channel below which a norm keeps what it has: the mean of 16 is a quarter of a
#: standard deviation off.
LEAST_VALUES = 16


def reestimate(
    module: nn.Module, batches: Iterable[Sequence[Tensor]], only: Iterable[nn.Module] = ()
) -> int:
    """Set mean and variance of each batch norm to those of what it sees in all the samples.

    Samples go through in order, dropout rests, and each norm works by the statistics of its batch,
    as in training. Means and squares are pooled over the batches in float64, every value counting
    once.

    Args:
        module: edited in place; its modes come back.
        batches: inputs `[n, ...]` each, on the module's device; see `Spread`.
        only: the norms to look at; all of the module's where none is given.

    Returns:
        How many norms have new statistics. One that saw fewer than 16 values of a channel, or
        values that are not finite, keeps what it had.
    """
    norms = batch_norms(only or module.modules())
    if not norms:
        return 0
    pools = {norm: _Pool(norm) for norm in norms}
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), _observed(pools):
            for batch in batches:
                module(*batch)
    finally:
        for part, mode in modes.items():
            part.training = mode
    return sum(pool.write() for pool in pools.values())


@dataclass(frozen=True)
class Trial:
    """What new statistics are worth.

    Attributes:
        count: norms that have new ones.
        before, after: error with the old and with the new ones.
    """

    count: int
    before: float
    after: float

    @property
    def worse(self) -> bool:
        """Whether the new ones do worse."""
        return self.after > self.before or (math.isnan(self.after) and not math.isnan(self.before))


def reestimate_on_trial(
    module: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    error: Callable[[], float],
    only: Iterable[nn.Module] = (),
    *,
    keep: bool = True,
) -> Trial:
    """`reestimate`, and the old statistics again where the new ones make an error larger.

    A net that is nearly whole knows the statistics of all it was ever trained on; those of a few
    samples of another kind are worse.

    Args:
        module, batches, only: as for `reestimate`; the module is in eval mode.
        error: of the module as it stands; lower is better.
        keep: False to have the old ones back in any case.
    """
    norms = batch_norms(only or module.modules())
    old = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    before = error()
    count = reestimate(module, batches, norms) if norms else 0
    trial = Trial(count, before, error() if count else before)
    if not keep or trial.worse:
        for buffer, was in old:
            buffer.copy_(was)
    return trial


def batch_norms(modules: Iterable[nn.Module | None]) -> list[_BatchNorm]:
    """Those of the modules that remember statistics."""
    return [m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None]


class _Pool:
    """Mean and squares of all that one norm sees, and what it remembered before."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm: Any = norm
        self.before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
        self.momentum = norm.momentum
        self.count = 0
        self.mean = torch.zeros_like(self.before["running_mean"], dtype=torch.float64)
        self.squares = self.mean.clone()

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before a call: the norm is to leave the statistics of this batch in its buffers."""
        self.norm.reset_running_stats()
        self.norm.momentum = 1.0
        self.norm.training = _values(args[0]) > 1  # one value has no variance

    def leave(self, module: nn.Module, args: tuple[Any, ...], result: object) -> None:
        """After a call: pool what is in the buffers."""
        values = _values(args[0])
        if values < 2:
            return
        # squares around the mean of both parts together: Chan, Golub and LeVeque 1983, eq. 2.1
        total, shift = self.count + values, self.norm.running_mean.double() - self.mean
        self.squares += self.norm.running_var.double() * (values - 1)
        self.squares += shift**2 * (self.count * values / total)
        self.mean += shift * (values / total)
        self.count = total

    def put_back(self) -> None:
        """The norm as it was."""
        self.norm.momentum = self.momentum
        for name, buffer in self.norm.named_buffers():
            buffer.copy_(self.before[name])

    def write(self) -> bool:
        """Give the norm what was pooled, where that is enough and finite."""
        if self.count < LEAST_VALUES or not bool(torch.isfinite(self.mean + self.squares).all()):
            return False
        self.norm.running_mean.copy_(self.mean)
        self.norm.running_var.copy_(self.squares / (self.count - 1))
        return True


@contextmanager
def _observed(pools: Mapping[_BatchNorm, _Pool]) -> Iterator[None]:
    """Every norm feeds its pool inside; afterwards it is as it was."""
    hooks = [norm.register_forward_pre_hook(pool.enter) for norm, pool in pools.items()]
    hooks += [norm.register_forward_hook(pool.leave) for norm, pool in pools.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for pool in pools.values():
            pool.put_back()


def _values(seen: Tensor) -> int:
    """Values of one channel in what a norm is given, `[n, channels, ...]`."""
    return seen.numel() // seen.shape[1]
