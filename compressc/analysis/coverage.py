"""What passes can do with each op of a graph: verdicts, and the share of parameters they reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from compressc.ir import Graph, Op, layer_tensors
from compressc.ir.quantized import stored_shapes, stored_types

#: `does`: the pass changes the op. `idle`: by its nature there is nothing to do. `cannot`: there
#: is, and something is in the way. `unknown`: the pass does not say.
Outcome = Literal["does", "idle", "cannot", "unknown"]
OUTCOMES: tuple[Outcome, ...] = ("does", "cannot", "unknown", "idle")


@dataclass(frozen=True)
class Verdict:
    """What a pass can do with one op; make it by `does`, `idle`, `cannot` or `unknown`.

    Attributes:
        outcome: see `Outcome`.
        text: what it does (`cuts 8 of 16 channels`), or why it does nothing.
        tensors: tensors of the op's layer that it changes, by their local names (`weight`).
    """

    outcome: Outcome
    text: str
    tensors: frozenset[str] = frozenset()

    @staticmethod
    def does(text: str, *tensors: str) -> Verdict:
        """The pass changes the op, and of its layer the tensors named."""
        return Verdict("does", text, frozenset(tensors))

    @staticmethod
    def idle(reason: str) -> Verdict:
        """There is nothing to do with an op of this kind."""
        return Verdict("idle", reason)

    @staticmethod
    def cannot(reason: str) -> Verdict:
        """There would be something to do, and this is in the way."""
        return Verdict("cannot", reason)

    @staticmethod
    def unknown(reason: str = "does not say") -> Verdict:
        """The pass does not say; counts as not covered."""
        return Verdict("unknown", reason)


@dataclass(frozen=True)
class Uncovered:
    """A parameter that a pass leaves as it is.

    Attributes:
        tensor: its text name (`conv1.weight`).
        parameters: its elements.
        reason: why.
    """

    tensor: str
    parameters: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """What one pass can do with a graph.

    Attributes:
        pass_text: the pass with its options, `prune(ratio=0.5)`.
        verdicts: one for every op of the graph, in order.
        total: parameters of the graph; tied ones count once. Buffers are none, except int8 weights.
        covered: parameters that the pass changes. A tied one counts where it is changed in every
            op that holds it: what is left float in one place is still there.
        uncovered: the others, the largest first.
    """

    pass_text: str
    verdicts: Mapping[str, Verdict]
    total: int
    covered: int
    uncovered: tuple[Uncovered, ...]

    @property
    def share(self) -> float:
        """Covered share of the parameters; 1 where there are none."""
        return self.covered / self.total if self.total else 1.0

    def counts(self) -> dict[Outcome, int]:
        """Ops by outcome."""
        found = Counter(verdict.outcome for verdict in self.verdicts.values())
        return {outcome: found[outcome] for outcome in OUTCOMES}


def summarize(graph: Graph, pass_text: str, verdicts: Mapping[str, Verdict]) -> Coverage:
    """Complete the verdicts of a pass (an op without one is `unknown`) and count parameters.

    Args:
        graph: the graph they are about.
        pass_text: names the pass.
        verdicts: op name -> verdict; of other names nothing is kept.
    """
    complete = {op.name: verdicts.get(op.name) or Verdict.unknown() for op in graph}
    names = graph.tensor_names()
    sizes: dict[int, int] = {}
    reasons: dict[int, str] = {}
    for op in graph:
        verdict = complete[op.name]
        numbers = {name: type_.numel({}) for name, _, type_ in stored_types(op)}
        for local, tensor in parameters_of(op):
            sizes[id(tensor)] = numbers[local]
            if local not in verdict.tensors:
                stays = f"; {local} stays" if verdict.outcome == "does" else ""
                reasons.setdefault(id(tensor), verdict.text + stays)
    left = [Uncovered(names[key], sizes[key], reason) for key, reason in reasons.items()]
    left.sort(key=lambda item: -item.parameters)
    total = sum(sizes.values())
    covered = total - sum(item.parameters for item in left)
    return Coverage(pass_text, complete, total, covered, tuple(left))


def parameters_of(op: Op) -> list[tuple[str, torch.Tensor]]:
    """(local name, tensor) of what an op's layer has learned: parameters, and stored weights."""
    if op.layer is None:
        return []
    stored = stored_shapes(op)
    return [
        (name, tensor)
        for name, tensor in layer_tensors(op.layer)
        if isinstance(tensor, nn.Parameter) or name in stored
    ]
