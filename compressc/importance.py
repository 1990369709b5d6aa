"""What an importance is: how much each index of a width matters (group `compressc.importances`).

An importance is a frozen pydantic model, as a pass is: its fields are its options. It is shown what
goes with each index of one width (`Together`) and gives every index a number; the least go first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from compressc.plugins import IMPORTANCES, Group
from compressc.spec import Configured, parse

#: What is measured on calibration data for an importance that asks for it: gradients of the task's
#: loss summed over samples, their squares, or the size of what layers read.
Reading = Literal["gradients", "squared gradients", "inputs"]
#: What a tensor does with an index of a width: a layer's weights that make it, those that read it,
#: the scale that a norm gives it, or a parameter that values are multiplied with.
Side = Literal["makes", "reads", "scales", "multiplies"]


@dataclass(frozen=True)
class Member:
    """The weights of one layer that go with each index of a width.

    Attributes:
        op: name of the layer's op.
        side: what they do with it.
        kind: of the op, `conv2d`.
        weights: f32[size, n]: all that one index takes along.
        gradients: f32[size, n], of the task's loss, summed over batches; where it was asked for.
        squared_gradients: f32[size, n], mean over samples of the squared gradient of each.
        inputs: f32[size, n], root mean square of what each weight is multiplied with; of weights
            that read the width.
    """

    op: str
    side: Side
    kind: str
    weights: Tensor
    gradients: Tensor | None = None
    squared_gradients: Tensor | None = None
    inputs: Tensor | None = None


@dataclass(frozen=True)
class Together:
    """All that is cut together with the indices of a width.

    Attributes:
        size: of the width.
        members: one for each weight that has it.
        generator: seeded by the run and the width.
    """

    size: int
    members: tuple[Member, ...]
    generator: torch.Generator

    def mean(
        self, of: Callable[[Member], Tensor], members: Sequence[Member] | None = None
    ) -> Tensor:
        """The mean over members of what is said of each, f32[size]; ones where there is none.

        Args:
            of: f32[size] of a member.
            members: which ones, in place of all.
        """
        chosen = self.members if members is None else members
        if not chosen:
            return torch.ones(self.size)
        return torch.stack([of(member).float() for member in chosen]).mean(0)


class Importance(Configured, ABC):
    """A score for each index of a width. Subclass it, declare options as fields.

    Class variables:
        name: as in `prune(importance=NAME)`, and the entry point.
        reads: what it must be shown beside the weights; it takes calibration data.
        comparable: scores of several widths are on one scale; else each width is scaled to mean 1
            before widths are ranked together.
        formula: in plain text, W the weights of an index and g their gradients.
        paper: where it is from, and where this differs.
    """

    entry_points: ClassVar[Group] = IMPORTANCES
    reads: ClassVar[frozenset[Reading]] = frozenset()
    comparable: ClassVar[bool] = False
    formula: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    @classmethod
    def remarks(cls) -> list[str]:
        """Formula and source, and what it takes."""
        found = [f"formula: {cls.formula}"] if cls.formula else []
        found += [f"source: {cls.paper}"] if cls.paper else []
        reads = ", ".join(sorted(cls.reads))
        return [*found, f"reads {reads} on calibration data" if reads else "reads weights alone"]

    @abstractmethod
    def score(self, together: Together) -> Tensor:
        """At least 0 for each index, f32[size]; the least go first."""


def parse_importance(text: str) -> Importance:
    """Read `taylor` or `name(option=value)`.

    Raises:
        CompresscError: see `compressc.spec.parse`.
    """
    return parse(Importance, text)  # type: ignore[type-abstract]
