"""The kit for plugin authors: hold a pass against everything that the pipeline will ask of it."""

from compressc.testing.agreement import check_coverage
from compressc.testing.checking import Checked, check_pass, export_graph

__all__ = ["Checked", "check_coverage", "check_pass", "export_graph"]
