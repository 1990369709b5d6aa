"""Files for users: each back end writes one format and proves it in the runtime that runs it."""

from compressc.backend.backend import Backend, Runner
from compressc.backend.proof import emit_proved, is_quantized, prove
from compressc.backend.registry import backend_names, load_backend

__all__ = [
    "Backend",
    "Runner",
    "backend_names",
    "emit_proved",
    "is_quantized",
    "load_backend",
    "prove",
]
