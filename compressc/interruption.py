"""Ctrl-C, SIGTERM and SIGHUP end a command at once: one line, nothing half written, 128 + number.

The process ends inside the handler and not by an exception. One that is raised in the middle of an
import or of a library comes out as that library's failure, seconds later, or never. So nobody is
blamed for an interruption, and nothing after it runs; what must not stay behind is written down
here while it exists. A program that uses compressc as a library keeps its own handlers.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
#: Seconds that the main thread has to come back from native code.
_PATIENCE = 0.5

#: Folders that nobody wants where the process ends before its work does.
UNFINISHED: set[str] = set()


class _State:
    """What the handler has to know; it may run between any two instructions."""

    owner = 0  # the process that installed it: its forked children only end
    held = 0  # depth of `held_back`
    pending = 0  # the signal that came meanwhile
    ending = False
    cached = False  # whether the passes that are finished are in a cache


def is_command() -> bool:
    """Whether this process was started as `compressc` or `python -m compressc`."""
    if sys.argv[:1] == ["-m"]:  # so it reads while `python -m` imports the package
        return "compressc" in sys.orig_argv
    return os.path.basename(sys.argv[0] if sys.argv else "") == "compressc"


def rest() -> str:
    """What stays of a command that was ended, in words."""
    cached = "finished passes are in the cache, " if _State.cached else ""
    return f"{cached}nothing was half written"


def finished_passes_are_cached(cached: bool) -> None:
    """Have that said, or not, where a signal ends the process."""
    _State.cached = cached


def end_at_signals() -> None:
    """Install the handler; a signal that is ignored (`nohup`) stays ignored."""
    _State.owner = os.getpid()
    for number in _WORDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def watch_native_code() -> None:
    """End the process also where the main thread is in a library that does not come back soon.

    Python calls a handler only between two instructions of the main thread; the interpreter writes
    the number of the signal to a pipe at once, and a thread of ours reads it.
    """
    import threading

    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # the pipe is ours
    threading.Thread(target=_watch, args=(read,), daemon=True, name="signals").start()


def _watch(pipe: int) -> None:
    import time

    while came := os.read(pipe, 1):
        if came[0] in _WORDS:
            time.sleep(_PATIENCE)
            _end(came[0])


@contextmanager
def held_back() -> Iterator[None]:
    """Let a signal wait until the block is done: it lasts milliseconds and must be whole."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
        if _State.pending and not _State.held:
            _end(_State.pending)


@contextmanager
def unfinished(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Within the block, the folder goes where a signal ends the process."""
    UNFINISHED.add(os.fspath(folder))
    try:
        yield
    finally:
        UNFINISHED.discard(os.fspath(folder))


def _end(number: int, frame: object = None) -> None:
    if os.getpid() != _State.owner:
        os._exit(128 + number)
    if _State.held:
        _State.pending = number
        return
    if _State.ending:
        return
    _State.ending = True
    for folder in list(UNFINISHED):
        _remove(folder)
    say(f"{_WORDS[signal.Signals(number)]}; {rest()}")
    os._exit(128 + number)


def _remove(folder: str) -> None:
    import shutil

    for _ in range(20):  # another thread may be writing into it
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return


def say(line: str) -> None:
    """One line on standard error, past Python's buffers, which may be in use at this moment."""
    with suppress(OSError):  # closed: there is nobody to tell
        if os.isatty(2):  # the progress bar goes, and the cursor it hid comes back
            os.write(2, b"\r\x1b[K\x1b[?25h")
        os.write(2, f"{line}\n".encode())
