"""Measurements: quality, size and time. None of them knows the graph: they take callables."""

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
    "Fidelity",
    "Judge",
    "Speedup",
    "Spread",
    "Verdict",
    "bytes_on_disk",
    "fidelity",
    "measure_latency",
    "peak_bytes",
    "require_memory",
    "speedup",
    "speedup_over",
]
