"""What makes two graphs different, op by op: added, removed, resized, replaced, retrained."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from compressc.analysis.block_names import joint_name
from compressc.analysis.blocks import find_blocks
from compressc.analysis.cost import Cost, op_costs, total_cost
from compressc.analysis.lineage import Kin, keys_of, match_kin
from compressc.analysis.liveness import peak_memory
from compressc.analysis.signatures import Signatures
from compressc.ir import LAYERS, Graph, Op, Ref, layer_attributes, layer_tensors
from compressc.ir.ops import map_arg

#: `resized`: same kind, other sizes. `changed`: same kind and sizes, other settings. `replaced`:
#: other kinds with the same lineage. `rewired`: the same op reads another value. `retrained`: the
#: same op with other weights.
Status = Literal["added", "removed", "replaced", "resized", "changed", "rewired", "retrained"]
#: Attributes that are sizes; others are settings.
_SIZES = frozenset(
    ("in", "out", "features", "width", "rows", "shape", "channels", "groups", "kernel", "type")
)
#: The number of a layer inside a dotted name.
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        status: what happened.
        before: names of the ops of the first graph; none where something was added.
        after: names of the ops of the second graph; none where something was removed.
        kinds_before: their kinds.
        kinds_after: their kinds.
        details: (attribute, before, after) of what differs.
        cost_before: what the ops cost before.
        cost_after: what they cost now.
        place: equal for changes of one kind at one place of a repeated block.
    """

    status: Status
    before: tuple[str, ...]
    after: tuple[str, ...]
    kinds_before: tuple[str, ...]
    kinds_after: tuple[str, ...]
    details: tuple[tuple[str, str, str], ...]
    cost_before: Cost
    cost_after: Cost
    place: str


@dataclass(frozen=True)
class Row:
    """Changes that are told as one.

    Attributes:
        name: of the op, `encoder.layer.{0..11}.output.dense` for several.
        count: how many changes.
        status: what happened.
        kind: `conv2d`, or `conv2d, batch_norm2d -> quantized_conv2d`.
        detail: `out 768 -> 384`, or `out 768 -> 310..402` where they differ.
        cost_before: of all of them.
        cost_after: of all of them.
    """

    name: str
    count: int
    status: Status
    kind: str
    detail: str
    cost_before: Cost
    cost_after: Cost

    @property
    def weighs(self) -> bool:
        """Does any of these ops hold weights or multiply?"""
        return _weighs(self.cost_before) or _weighs(self.cost_after)


@dataclass(frozen=True)
class Difference:
    """What makes the second graph another than the first.

    Attributes:
        changes: in the order of the first graph.
        same: how many ops of the first graph are as they were.
        ops: how many ops both have.
        cost_before: of the whole first graph, at the sizes asked for.
        cost_after: of the whole second graph.
        peak_before: peak activation bytes of the first graph.
        peak_after: of the second.
        outputs_differ: do they return other values, or under other names?
    """

    changes: tuple[Change, ...]
    same: int
    ops: tuple[int, int]
    cost_before: Cost
    cost_after: Cost
    peak_before: int
    peak_after: int
    outputs_differ: bool

    @property
    def equal(self) -> bool:
        """Is nothing different?"""
        return not self.changes and not self.outputs_differ

    def rows(self, *, every: bool = False) -> list[Row]:
        """The changes with the members of repeated blocks told as one, unless `every` is to be.

        Changes of ops that neither hold weights nor multiply follow from others: they are told by
        kind, at the end.
        """
        if every:
            return [_row([change]) for change in self.changes]
        groups: dict[Any, list[Change]] = defaultdict(list)
        for change in self.changes:
            kinds = (change.kinds_before, change.kinds_after)
            costs = _weighs(change.cost_before) or _weighs(change.cost_after)
            place = change.place if costs else ""
            groups[not costs, change.status, kinds, place].append(change)
        order = sorted(groups, key=lambda key: bool(key[0]))  # stable: else as they came
        return [_row(groups[key]) for key in order]


def difference(before: Graph, after: Graph, **dimensions: int) -> Difference:
    """Compare two graphs.

    Args:
        before: a typed graph.
        after: another; by its lineage a descendant of the first or of the same teacher, else ops
            are matched by name.
        dimensions: sizes of the open dimensions that costs are given for; those not given are 1.

    Raises:
        CompresscError: CC204 where a graph cannot be run at these sizes.
    """
    comparison = _Comparison(before, after, dimensions)
    changes = [change for kin in comparison.kins for change in comparison.changes(kin)]
    touched = sum(len(change.before) for change in changes)
    return Difference(
        tuple(changes),
        len(before) - touched,
        (len(before), len(after)),
        total_cost(before, **dimensions),
        total_cost(after, **dimensions),
        peak_memory(before, **dimensions).bytes,
        peak_memory(after, **dimensions).bytes,
        comparison.outputs_differ(),
    )


class _Comparison:
    """Two graphs, their ops matched."""

    def __init__(self, before: Graph, after: Graph, dimensions: Mapping[str, int]) -> None:
        self.graphs = (before, after)
        self.kins = match_kin(before, after)
        self.signatures = (Signatures(before), Signatures(after))
        self.costs = (op_costs(before, **dimensions), op_costs(after, **dimensions))
        self.home = [
            {op.name: i for i, kin in enumerate(self.kins) for op in kin.before},
            {op.name: i for i, kin in enumerate(self.kins) for op in kin.after},
        ]
        self.order = [{op.name: i for i, op in enumerate(graph)} for graph in self.graphs]
        self.places = [_places(before), _places(after)]

    def outputs_differ(self) -> bool:
        """Do the graphs return other values?"""
        structure = [map_arg(graph.outputs, _hole) for graph in self.graphs]
        homes = [
            [self.home[side][name] for name in graph.output_names]
            for side, graph in enumerate(self.graphs)
        ]
        return structure[0] != structure[1] or homes[0] != homes[1]

    def changes(self, kin: Kin) -> list[Change]:
        """What is different about ops of one descent."""
        pairs, before, after = _paired(kin)
        found: list[Change] = []
        unchanged: list[tuple[Op, Op]] = []
        for a, b in pairs:
            if self._signature(0, a) == self._signature(1, b):
                unchanged.append((a, b))
            else:
                before.append(a)
                after.append(b)
        for a, b in unchanged:
            found += self._same_op(a, b)
        main_before, plain_before = self._split(0, before, after)
        main_after, plain_after = self._split(1, after, before)
        if main_before and main_after:
            found.append(self._change(main_before, main_after))
        else:
            plain_before, plain_after = main_before + plain_before, main_after + plain_after
        found += [self._change([op], []) for op in plain_before]
        found += [self._change([], [op]) for op in plain_after]
        return found

    def _split(self, side: int, ops: list[Op], others: list[Op]) -> tuple[list[Op], list[Op]]:
        """Ops that may stand for the others, and plain ones that only came or went beside them."""
        kinds = {op.kind for op in others}
        names = {op.name for op in others}
        main = [
            op
            for op in sorted(ops, key=lambda op: self.order[side][op.name])
            if _weighs(self.costs[side][op.name]) or op.kind in kinds or op.name in names
        ]
        return main, [op for op in ops if op not in main]

    def _signature(self, side: int, op: Op) -> str:
        return self.signatures[side].of(op)

    def _same_op(self, a: Op, b: Op) -> list[Change]:
        """Ops that compute alike: do they read the same, and hold the same?"""
        sources = [[self.home[side][name] for name in op.inputs] for side, op in enumerate((a, b))]
        own = self.home[0][a.name]
        if sources[0] != sources[1] and self._stay(sources, own):
            return [self._change([a], [b], "rewired")]
        if not _same_weights(a, b):
            return [self._change([a], [b], "retrained")]
        return []

    def _stay(self, sources: list[list[int]], own: int) -> bool:
        """Do all sources have other kin in both graphs? Else the reader only follows a change."""
        homes = [home for row in sources for home in row]
        kins = [self.kins[home] for home in homes]
        return own not in homes and all(kin.before and kin.after for kin in kins)

    def _change(self, before: list[Op], after: list[Op], status: Status | None = None) -> Change:
        details: tuple[tuple[str, str, str], ...] = ()
        if status is None:
            status, details = self._status(before, after)
        place = self._place(0, before[0]) if before else self._place(1, after[0])
        return Change(
            status,
            before=tuple(op.name for op in before),
            after=tuple(op.name for op in after),
            kinds_before=tuple(op.kind for op in before),
            kinds_after=tuple(op.kind for op in after),
            details=details,
            cost_before=sum((self.costs[0][op.name] for op in before), Cost()),
            cost_after=sum((self.costs[1][op.name] for op in after), Cost()),
            place=place,
        )

    def _place(self, side: int, op: Op) -> str:
        return self.places[side].get(op.name) or _NUMBER.sub("#", op.name)

    def _status(
        self, before: list[Op], after: list[Op]
    ) -> tuple[Status, tuple[tuple[str, str, str], ...]]:
        if not after:
            return "removed", ()
        if not before:
            return "added", ()
        if [op.kind for op in before] != [op.kind for op in after]:
            return "replaced", (("", self._sizes(before), self._sizes(after)),)
        facts = [[self._facts(side, op) for op in ops] for side, ops in enumerate((before, after))]
        details = [
            (name, a.get(name, ""), b.get(name, ""))
            for a, b in zip(*facts, strict=True)
            for name in (*a, *(key for key in b if key not in a))
            if a.get(name) != b.get(name)
        ]
        resized = any(name in _SIZES for name, _, _ in details)
        if len(details) > 1:  # a layer's attributes say more than its type
            details = [item for item in details if item[0] != "type"] or details
        return "resized" if resized else "changed", tuple(details)

    def _facts(self, side: int, op: Op) -> dict[str, str]:
        """The attributes of an op as text, and the type of its result."""
        facts = {}
        if op.kind in LAYERS:
            facts = {name: str(value) for name, value in layer_attributes(op).items()}
        else:
            _, *rest, _ = self._signature(side, op).split("|")
            facts = {"arguments": "|".join(rest)}
        return facts | {"type": str(op.type)}

    def _sizes(self, ops: Sequence[Op]) -> str:
        """`1x56`: what goes into a layer and comes out, for each."""
        texts = []
        for op in ops:
            found = layer_attributes(op) if op.kind in LAYERS else {}
            if "in" in found and "out" in found:
                texts.append(f"{found['in']}x{found['out']}")
        return ", ".join(texts)


def _paired(kin: Kin) -> tuple[list[tuple[Op, Op]], list[Op], list[Op]]:
    """Ops of one name and kind, then of one value and kind, then of one kind; and the rest."""
    before, after = list(kin.before), list(kin.after)
    pairs: list[tuple[Op, Op]] = []
    ways: list[Callable[[Op], Any]] = [
        lambda op: (op.name.replace(".", "_"), op.kind),
        lambda op: (keys_of(op)[0], op.kind),
        lambda op: op.kind,
    ]
    for way in ways:
        there = _unique(after, way)
        for key, a in _unique(before, way).items():
            if key in there:
                pairs.append((a, there[key]))
                before.remove(a)
                after.remove(there[key])
    return pairs, before, after


def _unique(ops: list[Op], way: Callable[[Op], Any]) -> dict[Any, Op]:
    found: dict[Any, list[Op]] = defaultdict(list)
    for op in ops:
        found[way(op)].append(op)
    return {key: group[0] for key, group in found.items() if len(group) == 1}


def _same_weights(a: Op, b: Op) -> bool:
    """Are all tensors equal? Graph text has none: then nothing is known to differ."""
    if a.layer is None or b.layer is None:
        return True
    for (_, x), (_, y) in zip(layer_tensors(a.layer), layer_tensors(b.layer), strict=True):
        if x.dtype != y.dtype:
            return False
        if not (x.is_meta or y.is_meta) and not torch.equal(x, y):
            return False
    return True


def _hole(arg: Any) -> Any:
    return "%" if isinstance(arg, Ref) else arg


def _weighs(cost: Cost) -> bool:
    return bool(cost.parameters or cost.macs)


def _places(graph: Graph) -> dict[str, str]:
    """Op in an outermost repeated block -> the block and its place there."""
    return {
        name: f"{block.name} {position}"
        for block in find_blocks(graph)
        if not block.parent
        for member in block.members
        for position, name in enumerate(member)
    }


def _row(changes: list[Change]) -> Row:
    first = changes[0]
    names = [(change.before or change.after)[0] for change in changes]
    kinds = [", ".join(kinds) for kinds in (first.kinds_before, first.kinds_after) if kinds]
    return Row(
        joint_name(names),
        len(changes),
        first.status,
        " -> ".join(dict.fromkeys(kinds)),
        _detail(changes),
        sum((change.cost_before for change in changes), Cost()),
        sum((change.cost_after for change in changes), Cost()),
    )


def _detail(changes: list[Change]) -> str:
    """The details that all have, each side as one text or as the span of several numbers."""
    texts = []
    for i, (name, _, _) in enumerate(changes[0].details):
        columns = [change.details[i] for change in changes if len(change.details) > i]
        sides = [_span([column[side] for column in columns]) for side in (1, 2)]
        if all(sides):
            texts.append(f"{name} {sides[0]} -> {sides[1]}".strip())
        elif name and any(sides):
            texts.append(name)
    return ", ".join(texts)


def _span(values: list[str]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0]
    if all(value.isdigit() for value in distinct):
        numbers = sorted(map(int, distinct))
        return f"{numbers[0]}..{numbers[-1]}"
    return ""
