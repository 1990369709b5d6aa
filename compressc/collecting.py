"""Python's garbage collector: when it looks, and when it had better not."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: glibc, malloc.h; its defaults at the start, and where they end (mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LEAST, _MOST = 1 << 17, 1 << 25


def give_back() -> None:
    """Collect cycles, and return what the allocator keeps of freed memory to the system.

    Libraries leave cycles that hold tensors, several times the model, until Python happens to look
    for them: it counts objects, not bytes. And glibc keeps freed pieces of up to 32 MB for later.
    """
    gc.collect()
    _trim()


def _trim() -> None:
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """What is freed goes back to the system meanwhile, pieces of 128 kB and more.

    Left alone, glibc keeps freed pieces of up to 32 MB once it has seen such ones go: a library
    that copies one weight after the other then holds the model twice more. Allocating takes longer:
    not for training. Afterwards it keeps such pieces, whether it had seen any or not. Also a
    decorator: `@freed_at_once()`.
    """
    _set_allocator(_LEAST, _LEAST)
    _trim()
    try:
        yield
    finally:
        _set_allocator(_MOST, 2 * _MOST)


def _set_allocator(mapped: int, trimmed: int) -> None:
    """Bytes from which a piece is mapped by itself, and those kept at the end of the heap."""
    with suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, mapped)
        library.mallopt(_M_TRIM_THRESHOLD, trimmed)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Do not look for garbage meanwhile.

    Making a large graph makes nothing but objects that stay, and each time their number grows by a
    quarter the collector looks through every object of the process: half the time of reading 50,000
    ops. Also a decorator: `@collector_paused()`.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def standing_objects_skipped() -> Iterator[None]:
    """What is there already is not looked through meanwhile, only what comes.

    A process that has imported torch and its neighbours holds a million objects: each `give_back`
    would take half a second. Also a decorator. Inside another one, or where the caller has frozen
    objects, it does nothing.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
