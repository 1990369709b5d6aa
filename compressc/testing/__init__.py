"""The kit for plugin authors: hold a pass or an objective against all that will be asked of it."""

from compressc.testing.agreement import check_coverage
from compressc.testing.checking import Checked, check_pass, export_graph
from compressc.testing.objectives import check_objective, draw_readings

__all__ = [
    "Checked",
    "check_coverage",
    "check_objective",
    "check_pass",
    "draw_readings",
    "export_graph",
]
