"""What an objective is: a distillation loss by name (entry-point group `compressc.objectives`).

An objective is a frozen pydantic model, as a pass is: its fields are its options. It looks at a
batch (`Seen`) and returns values that are not reduced (`Unreduced`); `reduce` takes the means, here
and nowhere else, so that a weight means the same whatever the size of a batch, a map or a sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compressc.distillation.seen import Reading, Seen
from compressc.errors import CompresscError
from compressc.plugins import OBJECTIVES, Group
from compressc.spec import Configured, Weighted, parse, parse_sum

#: What the first dimension of values counts: rows of the judged output, samples, ordered pairs of
#: samples (the first two dimensions), positions of samples or heads (the first two), or nothing:
#: scalars that are means already.
Of = Literal["rows", "samples", "pairs", "positions", "batch"]


@dataclass(frozen=True)
class Unreduced:
    """Values of a loss before any mean, in float32 or better.

    Attributes:
        of: what they belong to.
        values: one tensor, or one for each feature point or layer; further dimensions are meant
            over, too.
        units: what the mean of each tensor is divided by (the teacher's variance, say), numbers or
            scalars; 1 where none are given.
        weights: of the leading dimensions of each tensor, for means that are weighted; what has the
            weight 0 is left out, whatever it is.
    """

    of: Of
    values: Sequence[Tensor]
    units: Sequence[Tensor | float] = ()
    weights: Sequence[Tensor] = ()


def reduce(loss: Unreduced) -> Tensor:
    """The mean over the tensors of the mean of each, in its unit; a scalar."""
    units = loss.units or [1.0] * len(loss.values)
    weights: Sequence[Tensor | None] = loss.weights or [None] * len(loss.values)
    total = loss.values[0].new_zeros(())
    for values, unit, weight in zip(loss.values, units, weights, strict=True):
        total = total + _mean(values, weight) / unit
    return total / len(loss.values)


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """By weight, 0 where nothing has any."""
    if weight is None:
        return values.mean()
    each = values.flatten(weight.ndim).mean(-1) if values.ndim > weight.ndim else values
    counted = torch.where(weight == 0, 0.0, each * weight)
    return counted.sum() / weight.sum().clamp_min(torch.finfo(values.dtype).tiny)


def widened(values: Tensor) -> Tensor:
    """In float32, or as they are where they are of higher precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Objective(Configured, ABC):
    """A distillation loss. Subclass it, and name the class as an entry point.

    Class variables:
        reads: what it reads of `Seen`; nothing else is sure to be there.
        needs_labels: it is nothing without labels, and is left out where there are none.
        formula: in plain text, s and t the student and the teacher.
        paper: where it is from, and where this differs.
        default_weight: that its authors give it beside cross entropy, where they do.
        shift_free: a number added to all logits of a row changes nothing.
        exempt: properties of `compressc.testing.check_objective` that do not hold, and why.
    """

    entry_points: ClassVar[Group] = OBJECTIVES
    reads: ClassVar[frozenset[Reading]] = frozenset({"rows"})
    needs_labels: ClassVar[bool] = False
    formula: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    default_weight: ClassVar[float] = 1.0
    shift_free: ClassVar[bool] = False
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @classmethod
    def remarks(cls) -> list[str]:
        """Formula and source, what it reads, and the weight that its authors give it."""
        found = [f"formula: {cls.formula}"] if cls.formula else []
        found += [f"source: {cls.paper}"] if cls.paper else []
        found.append(f"reads {', '.join(sorted(cls.reads))}")
        usual = f"weight in its source: {cls.default_weight:g}"
        return [*found, usual] if cls.default_weight != 1 else found

    @abstractmethod
    def __call__(self, seen: Seen) -> Unreduced:
        """The loss of a batch, at least 0; 0 where the student is the teacher.

        Computed in float32 or better; the gradient reaches the student alone.
        """

    def check(self, seen: Seen) -> None:
        """Refuse what it can make nothing of, before any training.

        Args:
            seen: of one sample.

        Raises:
            CompresscError: CC301; see `misfit`.
        """

    def skipped(self, seen: Seen) -> Mapping[int, str]:
        """Feature points that it leaves out, by their place, and why; for the report.

        Args:
            seen: of one sample.
        """
        return {}

    def module(self, seen: Seen) -> nn.Module | None:
        """What it learns or remembers itself (projectors, a queue); later found as `Seen.own`.

        It is trained along, is part of every checkpoint, and is dropped in the end.

        Args:
            seen: of one sample, for its shapes.
        """
        return None

    def told(self, own: nn.Module | None) -> str:
        """What there is to say, after a training, of the module that it made; empty for nothing."""
        return ""

    def mean(self, seen: Seen) -> Tensor:
        """The loss of a batch as a scalar: `reduce` of the call, or a faster way to it."""
        return reduce(self(seen))

    def takes_largest(self, classes: int) -> bool:
        """Whether it can do with `Readings.largest` of a teacher of so many classes."""
        return False

    def kept_at(self, classes: int) -> float | None:
        """The temperature that those are to be kept at; None where it has no use for them."""
        return None

    def fuses(self, other: Objective) -> bool:
        """Whether `fused` may give something together with that one."""
        return False

    def fused(self, other: Objective, share: float, seen: Seen) -> Tensor | None:
        """`share` of this mean + (1 - `share`) of the other's, in one pass; None where it is not.

        Args:
            other: one that it `fuses` with.
            share: of this one, between 0 and 1.
        """
        return None

    def misfit(self, wanted: str, got: object, hint: str = "") -> CompresscError:
        """The error for what `check` refuses: `objective 'kd' needs 2 classes or more (got 1)`."""
        wanted = f"objective '{self.name}' {wanted}"
        return CompresscError("CC301", wanted, got=str(got), hint=hint)


def parse_objective(text: str) -> Objective:
    """Read `kd` or `kd(T=2)`.

    Raises:
        CompresscError: see `compressc.spec.parse`.
    """
    return parse(Objective, text)  # type: ignore[type-abstract]


def parse_loss(text: str) -> tuple[Weighted[Objective], ...]:
    """Read `ce + 2*kd(T=4)`.

    Raises:
        CompresscError: see `compressc.spec.parse_sum`.
    """
    return parse_sum(Objective, text)  # type: ignore[type-abstract]
