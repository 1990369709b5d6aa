"""Giving back memory that is no longer used, at the points where much of it is."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_back() -> None:
    """Collect cycles, and return what the allocator keeps of freed memory to the system.

    Libraries leave cycles that hold tensors, several times the model, until Python happens to look
    for them: it counts objects, not bytes. And glibc keeps freed pieces of up to 32 MB for later.
    """
    gc.collect()
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
