"""A model at a glance: what it is made of, what it costs, what repeats."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from compressc.analysis.block_names import joint_name
from compressc.analysis.blocks import Block, find_blocks
from compressc.analysis.cost import (
    Cost,
    CostFormula,
    cost_formula,
    not_counted,
    op_costs,
)
from compressc.analysis.liveness import Peak, peak_formula, peak_memory
from compressc.analysis.stored import bytes_by_type
from compressc.ir import LAYERS, Graph
from compressc.ir.types import Size


@dataclass(frozen=True)
class CostRow:
    """Ops that cost something, told as one where they correspond in repeated blocks.

    Attributes:
        name: of the op, `encoder.layer.{0..11}.output.dense` for several.
        count: how many ops.
        kind: their kind.
        cost: of all of them.
    """

    name: str
    count: int
    kind: str
    cost: Cost


@dataclass(frozen=True)
class Overview:
    """Facts about one graph.

    Attributes:
        layers: kind -> number of layer ops.
        calls: kind -> number of ops that stayed calls of an operator library.
        tensors: number of parameters and constants that no layer holds.
        formula: cost over the open dimensions.
        cost: cost at the sizes asked for.
        peak: peak activation memory at these sizes.
        peak_formula: the same over the open dimensions, where one formula says it.
        not_counted: kinds whose MACs are not known -> their ops.
        blocks: the repeated blocks.
        rows: the ops that hold weights or multiply, those of blocks told as one.
        bytes_by_type: bytes of what the ops hold, by the type of the numbers.
    """

    layers: dict[str, int]
    calls: dict[str, int]
    tensors: int
    formula: CostFormula
    cost: Cost
    peak: Peak
    peak_formula: Size | None
    not_counted: dict[str, list[str]]
    blocks: list[Block]
    rows: list[CostRow]
    bytes_by_type: dict[str, int]

    @property
    def ops(self) -> int:
        """How many ops compute something: inputs and held tensors are not among them."""
        return sum(self.layers.values()) + sum(self.calls.values())


def overview(graph: Graph, *, every: bool = False, **dimensions: int) -> Overview:
    """Look at a graph.

    Args:
        graph: a well-formed, typed graph.
        every: give each op a row of its own.
        dimensions: sizes of the open dimensions that numbers are given for.

    Raises:
        CompresscError: CC204 where the model cannot be run at these sizes.
    """
    computing = [op for op in graph if op.kind != "input" and op.role != "tensor"]
    costs = op_costs(graph, **dimensions)
    blocks = find_blocks(graph)
    return Overview(
        layers=dict(Counter(op.kind for op in computing if op.kind in LAYERS).most_common()),
        calls=dict(Counter(op.kind for op in computing if op.kind not in LAYERS).most_common()),
        tensors=sum(op.role == "tensor" for op in graph),
        formula=cost_formula(graph),
        cost=sum(costs.values(), Cost()),
        peak=peak_memory(graph, **dimensions),
        peak_formula=peak_formula(graph),
        not_counted=not_counted(graph),
        blocks=blocks,
        rows=_rows(graph, costs, [] if every else blocks),
        bytes_by_type=bytes_by_type(graph),
    )


def _rows(graph: Graph, costs: dict[str, Cost], blocks: list[Block]) -> list[CostRow]:
    """Ops at one place of their innermost block share a row, which stands where the first does."""
    places: dict[str, tuple[str, int]] = {}
    for block in blocks:  # inner blocks come after those around them
        for member in block.members:
            places.update({name: (block.name, position) for position, name in enumerate(member)})
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, cost in costs.items():
        if cost.parameters or cost.macs:
            groups[places.get(name, (name, -1))].append(name)
    return [
        CostRow(
            joint_name(names),
            len(names),
            graph[names[0]].kind,
            sum((costs[name] for name in names), Cost()),
        )
        for names in groups.values()
    ]
