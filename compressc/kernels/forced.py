"""An implementation that somebody demands, whatever `dispatch` would choose."""

from __future__ import annotations

import os

#: The innermost last: by `COMPRESSC_KERNELS`, then by `dispatch.using`.
FORCED: list[str] = [name for name in (os.environ.get("COMPRESSC_KERNELS"),) if name]


def demanded() -> str:
    """The implementation demanded now, or nothing."""
    return FORCED[-1] if FORCED else ""
