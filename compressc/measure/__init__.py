"""Measurements: quality, size and time. None of them knows the graph: they take callables."""

from compressc.measure.energy import WATTS_PER_CORE, Energy, measure_energy
from compressc.measure.fidelity import Fidelity, fidelity
from compressc.measure.judging import Judge
from compressc.measure.latency import (
    Speedup,
    Spread,
    Verdict,
    measure_latency,
    speedup,
    speedup_over,
)
from compressc.measure.memory import peak_bytes, require_memory
from compressc.measure.size import bytes_on_disk

__all__ = [
    "WATTS_PER_CORE",
    "Energy",
    "Fidelity",
    "Judge",
    "Speedup",
    "Spread",
    "Verdict",
    "bytes_on_disk",
    "fidelity",
    "measure_energy",
    "measure_latency",
    "peak_bytes",
    "require_memory",
    "speedup",
    "speedup_over",
]
