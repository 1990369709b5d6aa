"""Where the experts of a router are: all that has a number, a weight or a layer for each of them.

From the scores of a linear layer on, each op is asked what it makes of them (`rules`), up
to where nothing has one index per expert any more. What is met on the way belongs to the experts:
parameters stacked or added, lists of what each expert computed, sizes that are written down.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compressc.ir import Graph, Op, TensorType


class NoExperts(Exception):
    """A router that is not understood; the message says why."""


@dataclass(frozen=True)
class Along:
    """A value that has one index per expert.

    Attributes:
        dim: along which.
        groups: how many `dim` counts, where it counts groups and the next one the experts of each.
    """

    dim: int
    groups: int | None = None


@dataclass(frozen=True)
class Chosen:
    """A value that holds numbers of experts."""


@dataclass(frozen=True)
class Results:
    """What each result of a call is; a number where it is that expert's alone."""

    items: tuple[State | int, ...]


#: What a value is; None where it knows nothing of single experts.
State = Along | Chosen | Results | None


@dataclass(frozen=True)
class Written:
    """A count of experts that is written down: an entry of a list of sizes, or a number."""

    op: str
    argument: str
    place: int | None
    is_of_group: bool = False


@dataclass
class Experts:
    """The experts of one router.

    Attributes:
        router: the linear layer that scores them.
        count: of experts.
        groups: that a choice goes through first; as many experts of each have to stay.
        picked: as many are chosen among all of them.
        in_group: as many are looked at in each group.
        scores: values with one index per expert, from the router on.
        choices: calls that choose among them.
        weights: parameters and constants that hold something for each, and along which dimension.
        shifts: those of them that are added to scores.
        picks: values that are one expert's alone.
        lists: calls that put together what each expert computed.
        written: counts that are written down.
    """

    router: str
    count: int
    groups: int = 1
    picked: int = 0
    in_group: int = 1
    scores: dict[str, Along] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    shifts: list[str] = field(default_factory=list)
    picks: dict[str, int] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)

    def left(self, share: float) -> int:
        """How many stay: the share, rounded up from a half, but those that are chosen."""
        each = self.count // self.groups
        least = max(self.in_group, self.picked)
        return self.groups * min(each, max(least, math.floor(each * share + 0.5)))


class Trace:
    """Follows the scores of one router."""

    def __init__(self, graph: Graph, router: Op, order: Mapping[str, int]) -> None:
        self.graph, self.order = graph, order
        shape = graph.type_of(router.name).shape
        self.experts = Experts(router.name, int(shape[-1]))
        self.states: dict[str, State] = {}
        self.set(router.name, Along(len(shape) - 1))
        #: What may read a value that belongs to the experts.
        self.read = {router.name}

    def follow(self, rule: Any) -> Experts:
        """Ask the rule of each reader, in the order of the graph.

        Args:
            rule: (trace, op) -> the state of its result.

        Raises:
            NoExperts: at the first op that is not understood.
        """
        queue: list[tuple[int, str]] = []
        self._await(queue, self.experts.router)
        while queue:
            _, name = heapq.heappop(queue)
            if name in self.read:
                continue
            self.read.add(name)
            state = rule(self, self.graph[name])
            self.set(name, state)
            if state is not None:
                self._await(queue, name)
        self._check()
        return self.experts

    def set(self, name: str, state: State) -> None:
        """Say what a value is."""
        self.states[name] = state
        if isinstance(state, Along):
            self.experts.scores[name] = state

    def shape(self, name: str) -> tuple[Any, ...]:
        """Sizes of a value."""
        type_ = self.graph[name].type
        if not isinstance(type_, TensorType):
            raise NoExperts(f"%{name} is no tensor")
        return type_.shape

    def group(self, groups: int) -> None:
        """The experts are seen in groups."""
        if self.experts.groups not in (1, groups):
            raise NoExperts("its experts are in groups of several sizes")
        self.experts.groups = groups

    def choose(self, op: Op, count: int, *, in_group: bool = False) -> None:
        """An op chooses some of the experts, or of those of each group."""
        self.experts.choices.append(op.name)
        if in_group:
            self.experts.in_group = max(self.experts.in_group, count)
        else:
            self.experts.picked += count

    def _await(self, queue: list[tuple[int, str]], name: str) -> None:
        for user in self.graph.users(name):
            heapq.heappush(queue, (self.order[user.name], user.name))

    def _check(self) -> None:
        """What belongs to the experts must be read by nothing else."""
        held = [name for name, state in self.states.items() if state is not None]
        for name in (*held, *self.experts.weights):
            if name in self.graph.output_names:
                raise NoExperts(f"%{name} is an output")
            for user in self.graph.users(name):
                if user.name not in self.read:
                    raise NoExperts(f"%{user.name} reads %{name}, too")
