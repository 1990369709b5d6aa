"""The command line: a thin layer over the library, one file per command."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compressc.interruption import end_at_signals, rest, watch_native_code
from compressc.scratch import scratch

if TYPE_CHECKING:
    import typer

INTERRUPTED = 130
#: What a system answers where there is no room, or no way, to write.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done. 1: `diff` found a difference. 2: bad command line or pass list (CC1xx). 3: the model
    (CC2xx). 4: the data (CC3xx). 5: a graph or bundle (CC4xx). 6: a pass, back end or gate
    (CC5xx). 7: the machine (CC6xx). 8: done, but for some of what was asked for (CC7xx): a format
    that could not be written, a latency that could not be measured, with --strict a pass that
    changed nothing. 70: a mistake of compressc itself. 130, 143, 129: ended by
    Ctrl-C, SIGTERM, SIGHUP.
    """
    # Before torch is imported: idle OpenMP threads that spin cost more than they save as soon as
    # another process wants the core (a distillation took 15 s instead of 2 s on two busy cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    import typer

    from compressc.cli.app import app, with_default
    from compressc.errors import CompresscError, first_line

    arguments = sys.argv[1:] if argv is None else argv
    show = "--traceback" in arguments or "COMPRESSC_TRACEBACK" in os.environ
    try:
        arguments = with_default([a for a in arguments if a != "--traceback"])
        with _own_temporary_folder():
            result = app(arguments, prog_name="compressc", standalone_mode=False)
        sys.stdout.flush()  # a full disk says so only now
        if result == INTERRUPTED:  # what typer makes of KeyboardInterrupt
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):  # where `main` is called, without the handler
        print(f"interrupted; {rest()}", file=sys.stderr)
        return INTERRUPTED
    except typer.TyperException as error:
        print(f"[CC100] {_usage(error)}; hint: compressc --help", file=sys.stderr)
        return 2
    except CompresscError as error:
        if show:
            traceback.print_exc()
        print(error, file=sys.stderr)
        return error.exit_code
    except BaseException as error:  # SystemExit, too: no library ends a command without a word
        if _reader_left(error):
            _discard_output()
            return 0
        if show:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in _MACHINE:
            _discard_output()
            print(
                f"[CC600] files and output can be written (got {first_line(error)})",
                file=sys.stderr,
            )
            return 7
        print(
            f"[internal] {first_line(error)}; hint: this is a mistake in compressc, "
            "please report it with the output of the same command and --traceback",
            file=sys.stderr,
        )
        return 70


def _usage(error: typer.TyperException) -> str:
    """What typer complains of, with the option that it means, which `str` leaves out."""
    from compressc.errors import plain

    return plain(error.format_message()).rstrip(".")


def _reader_left(error: BaseException) -> bool:
    """Whether nobody reads what is printed any more: `compressc inspect ... | head`."""
    if isinstance(error, SystemExit):  # what rich makes of it
        return isinstance(error.__context__, BrokenPipeError)
    return isinstance(error, BrokenPipeError)


def _discard_output() -> None:
    """What is still in the buffer has nowhere to go: Python would complain of it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """Libraries put their temporary files into a folder of this process's own.

    It is gone at the end, also where a signal ends the process; where the process was killed, the
    next one removes it.
    """
    import tempfile

    from compressc.errors import CompresscError

    named = os.environ.get("TMPDIR")
    with ExitStack() as stack:
        try:
            before = tempfile.gettempdir()
            folder = stack.enter_context(scratch(Path(before), "compressc-"))
        except OSError as error:
            raise CompresscError(
                "CC600",
                "a temporary folder can be written",
                got=error.strerror or str(error),
                where=named or "",
                hint="name one in TMPDIR",
            ) from error
        try:
            tempfile.tempdir = os.environ["TMPDIR"] = str(folder)  # native code reads the variable
            yield
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR") if named is None else os.environ.update(TMPDIR=named)


def entry() -> None:
    """The console script."""
    end_at_signals()
    watch_native_code()
    _open_streams()
    sys.exit(main())


def _open_streams() -> None:
    """Standard streams that are open and take any text.

    The first file that is opened would take the place of a closed one, and what libraries print
    would be written into it. Names of files may hold what no encoding can show.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
