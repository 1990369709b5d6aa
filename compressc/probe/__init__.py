"""The layers of a graph by themselves: models to be timed, and what their times foretell."""

from compressc.probe.extents import Left
from compressc.probe.folder import write_probe
from compressc.probe.measuring import RUNTIME, here, is_here
from compressc.probe.plan import Plan, plan_of
from compressc.probe.times import Times
from compressc.probe.whole import BACKEND, emit_part, read_by

__all__ = [
    "BACKEND",
    "RUNTIME",
    "Left",
    "Plan",
    "Times",
    "emit_part",
    "here",
    "is_here",
    "plan_of",
    "read_by",
    "write_probe",
]
