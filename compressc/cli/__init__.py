"""The command line: a thin layer over the library, one file per command."""

from __future__ import annotations

import os
import sys
import traceback


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done. 1: `diff` found a difference. 2: bad command line or pass list (CC1xx). 3: the model
    (CC2xx). 4: the data (CC3xx). 5: a graph or bundle (CC4xx). 6: a pass, back end or gate
    (CC5xx). 7: the machine (CC6xx). 70: a mistake of compressc itself. 130: interrupted.
    """
    # Before torch is imported: idle OpenMP threads that spin cost more than they save as soon as
    # another process wants the core (a distillation took 15 s instead of 2 s on two busy cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    import typer

    from compressc.cli.app import app, with_default
    from compressc.errors import CompresscError

    arguments = sys.argv[1:] if argv is None else argv
    show = "--traceback" in arguments or "COMPRESSC_TRACEBACK" in os.environ
    try:
        arguments = with_default([a for a in arguments if a != "--traceback"])
        result = app(arguments, prog_name="compressc", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except typer.TyperException as error:
        print(f"[CC100] {error}; hint: compressc --help", file=sys.stderr)
        return 2
    except CompresscError as error:
        if show:
            traceback.print_exc()
        print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `compressc inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if show:
            traceback.print_exc()
        print(
            f"[internal] {type(error).__name__}: {error}; hint: this is a mistake in compressc, "
            "please report it with the output of the same command and --traceback",
            file=sys.stderr,
        )
        return 70


def _interrupted() -> int:
    print(
        "interrupted; finished passes are in the cache, nothing was half written", file=sys.stderr
    )
    return 130


def entry() -> None:
    """The console script."""
    sys.exit(main())
