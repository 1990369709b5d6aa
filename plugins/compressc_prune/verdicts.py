"""What a choice of cuts means for each op of the graph: cut, carried along, or kept and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from compressc.analysis import Axis, Coupling, Slot, Width
from compressc.analysis.axes import leaves
from compressc.analysis.coverage import Verdict, parameters_of
from compressc.ir import Graph, Op

#: Why a width is kept that a statistic runs over.
NORMALIZED = "a norm or mean runs over it (normalized=True cuts it)"
#: Producers named for one cut; the others are counted.
_NAMED = 1


def verdicts(
    graph: Graph, found: Coupling, kept: Mapping[Width, torch.Tensor], refused: Mapping[Axis, str]
) -> dict[str, Verdict]:
    """A verdict for each op.

    Args:
        graph: the graph before the cut.
        found: its coupling.
        kept: the widths that are cut, and the indices i64[k] that stay.
        refused: leaf axis of every other width -> why it is not cut.
    """
    rules = _Verdicts(graph, found, kept, refused)
    return {op.name: rules.of(op) for op in graph}


class _Verdicts:
    def __init__(
        self,
        graph: Graph,
        found: Coupling,
        kept: Mapping[Width, torch.Tensor],
        refused: Mapping[Axis, str],
    ) -> None:
        self.graph, self.found, self.refused = graph, found, refused
        self.cut = {width.axis: (width, len(indices)) for width, indices in kept.items()}
        self.made = {width.axis for width in found.widths() if width.producers}
        self.slots: dict[str, list[Slot]] = {}
        for slot in found.slots:
            self.slots.setdefault(slot.op, []).append(slot)

    def of(self, op: Op) -> Verdict:
        """The verdict on one op."""
        if op.kind == "input":
            return Verdict.idle("an input of the model")
        slots = self.slots.get(op.name, [])
        own = list(dict.fromkeys(leaf for slot in slots for leaf in leaves(slot.axis)))
        seen = [*own, *self._leaves(op.name)]
        cut = [leaf for leaf in dict.fromkeys(seen) if leaf in self.cut]
        if cut:
            touched = {
                slot.tensor for slot in slots if any(leaf in self.cut for leaf in leaves(slot.axis))
            }
            action = self._action(op, cut)
            if own and not touched:
                action += f"; its own width stays: {self._reason(op, own)}"
            return Verdict.does(action, *touched)
        blocked = self.found.reasons.get(op.name)
        read = [*seen, *(leaf for name in op.inputs for leaf in self._leaves(name))]
        if not parameters_of(op) and not self.made.intersection(read if blocked else seen):
            return Verdict.idle("no width of a layer in it")
        missing = "none of its dimensions is a width that a layer makes"
        return Verdict.cannot(blocked or self._reason(op, seen) or missing)

    def _leaves(self, name: str) -> list[Axis]:
        return _value_leaves(self.found.values[name])

    def _action(self, op: Op, cut: Sequence[Axis]) -> str:
        made: list[str] = []
        followed: list[str] = []
        for leaf in cut:
            width, count = self.cut[leaf]
            if op.name in width.producers:
                made.append(f"cuts {width.size - count} of {width.size} {what(width)}")
            else:
                followed += width.producers
        if not made:
            return f"follows the cut of {_names(followed)}"
        return ", ".join(made) + (f"; inputs follow {_names(followed)}" if followed else "")

    def _reason(self, op: Op, seen: Iterable[Axis]) -> str:
        """Why none of the widths is cut; positions count only where there is no other width."""
        refused = [leaf for leaf in dict.fromkeys(seen) if leaf in self.refused]
        made = [leaf for leaf in refused if leaf in self.made]
        texts = (with_culprit(self.refused[leaf], leaf, (op.name,)) for leaf in made or refused)
        return "; ".join(dict.fromkeys(texts))


def with_culprit(reason: str, leaf: Axis, known: Sequence[str]) -> str:
    """A reason not to cut an axis, with the op it goes back to, unless that is spoken of anyway."""
    stated = reason in (leaf.frozen, NORMALIZED) and leaf.by not in ("", *known)
    return f"{reason} at %{leaf.by}" if stated else reason


def what(width: Width) -> str:
    """What the indices of a width are."""
    names = {"heads": "heads", "head width": "indices of the head width"}
    return names.get(width.axis.role, width.axis.role or "channels")


def _names(producers: Iterable[str]) -> str:
    names = [f"%{name}" for name in dict.fromkeys(producers)]
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _value_leaves(value: object) -> list[Axis]:
    """Leaves of a result, of all its items where it has several; sizes of 1 are no widths."""
    if isinstance(value, Axis):
        return [leaf for leaf in leaves(value) if leaf.size > 1]
    assert isinstance(value, tuple)
    return [leaf for item in value for leaf in _value_leaves(item)]
