"""Files for users: each back end writes one format and proves it in the runtime that runs it."""

from compressc.backend.backend import Backend, Runner, load_backend
from compressc.backend.proof import emit_proved, is_quantized, prove

__all__ = [
    "Backend",
    "Runner",
    "emit_proved",
    "is_quantized",
    "load_backend",
    "prove",
]
