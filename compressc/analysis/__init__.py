"""Graph -> facts. Nothing edits a graph, except `symbolize_widths`, which renames its sizes."""

from compressc.analysis.axes import Axis, kept_indices
from compressc.analysis.cost import Cost, cost_rows, op_costs, total_cost
from compressc.analysis.coupling import Coupling, Slot, Width, couple
from compressc.analysis.widths import symbolize_widths

__all__ = [
    "Axis",
    "Cost",
    "Coupling",
    "Slot",
    "Width",
    "cost_rows",
    "couple",
    "kept_indices",
    "op_costs",
    "symbolize_widths",
    "total_cost",
]
