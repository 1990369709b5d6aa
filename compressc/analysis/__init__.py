"""Graph -> facts. Nothing edits a graph, except `symbolize_widths`, which renames its sizes."""

from compressc.analysis.axes import Axis, kept_indices
from compressc.analysis.beside import Beside, beside, sizes_of
from compressc.analysis.blocks import Block, find_blocks
from compressc.analysis.chains import Chain, find_chains
from compressc.analysis.cost import (
    Cost,
    CostFormula,
    cost_formula,
    formula_text,
    not_counted,
    op_costs,
    total_cost,
)
from compressc.analysis.coupling import Coupling, Slot, Width, couple
from compressc.analysis.difference import Change, Difference, Row, difference
from compressc.analysis.early_exits import EarlyExit, find_early_exits
from compressc.analysis.interface import require_alike
from compressc.analysis.lineage import Kin, match_kin
from compressc.analysis.liveness import Peak, peak_formula, peak_memory
from compressc.analysis.overview import CostRow, Overview, overview
from compressc.analysis.together import CutTogether, cut_together
from compressc.analysis.widths import symbolize_widths

__all__ = [
    "Axis",
    "Beside",
    "Block",
    "Chain",
    "Change",
    "Cost",
    "CostFormula",
    "CostRow",
    "Coupling",
    "CutTogether",
    "Difference",
    "EarlyExit",
    "Kin",
    "Overview",
    "Peak",
    "Row",
    "Slot",
    "Width",
    "beside",
    "cost_formula",
    "couple",
    "cut_together",
    "difference",
    "find_blocks",
    "find_chains",
    "find_early_exits",
    "formula_text",
    "kept_indices",
    "match_kin",
    "not_counted",
    "op_costs",
    "overview",
    "peak_formula",
    "peak_memory",
    "require_alike",
    "sizes_of",
    "symbolize_widths",
    "total_cost",
]
