"""Samples made from a teacher alone, where there are no data (group `compressc.syntheses`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from compressc.ir import Graph
from compressc.pipeline.store import Store
from compressc.plugins import SYNTHESES, Group
from compressc.spec import Configured, parse


@dataclass(frozen=True)
class Making:
    """What a synthesis is given beside the teacher.

    Attributes:
        seed: of every random choice.
        device: where the teacher runs.
        store: where to keep how far it is, so that it goes on after a crash.
        progress: told what goes on, and how many steps of how many are done.
        say: told what a user should know of the result.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store = field(default_factory=Store)
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    say: Callable[[str], None] = lambda text: None


class Synthesis(Configured, ABC):
    """A way to make samples. Subclass it, and name the class as an entry point."""

    entry_points: ClassVar[Group] = SYNTHESES

    @abstractmethod
    def check(self, graph: Graph) -> None:
        """Refuse a teacher that it can make nothing from, before any work.

        Raises:
            CompresscError: CC105 where the teacher lacks what is needed; CC204 for its inputs.
        """

    @abstractmethod
    def make(self, graph: Graph, count: int, making: Making) -> tuple[Tensor, ...]:
        """Inputs of so many samples, `[count, ...]` each, on the CPU; see `check`."""


def parse_synthesis(text: str) -> Synthesis:
    """Read `deepinversion` or `deepinversion(steps=200)`.

    Raises:
        CompresscError: see `compressc.spec.parse`.
    """
    return parse(Synthesis, text)  # type: ignore[type-abstract]
