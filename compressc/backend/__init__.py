"""Files for users: each back end writes one format and proves it in the runtime that runs it."""

from compressc.analysis.integers import is_quantized, rounds_values
from compressc.backend.backend import Backend, Runner, load_backend
from compressc.backend.bench import Teacher, bench
from compressc.backend.file_record import Failure, FileRecord, LatencyRecord
from compressc.backend.proof import emit_proved, prove

__all__ = [
    "Backend",
    "Failure",
    "FileRecord",
    "LatencyRecord",
    "Runner",
    "Teacher",
    "bench",
    "emit_proved",
    "is_quantized",
    "load_backend",
    "prove",
    "rounds_values",
]
