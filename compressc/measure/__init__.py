"""Measurements: quality, size and time. None of them knows the graph: they take callables."""

from compressc.measure.fidelity import Fidelity, fidelity
from compressc.measure.latency import Speedup, Spread, Verdict, measure_latency, speedup
from compressc.measure.memory import peak_bytes, require_memory
from compressc.measure.prediction import Runner, labels_of, predict
from compressc.measure.size import bytes_on_disk

__all__ = [
    "Fidelity",
    "Runner",
    "Speedup",
    "Spread",
    "Verdict",
    "bytes_on_disk",
    "fidelity",
    "labels_of",
    "measure_latency",
    "peak_bytes",
    "predict",
    "require_memory",
    "speedup",
]
