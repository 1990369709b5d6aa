"""Libraries that print progress bars, hints and warnings while they work for us."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what Python code writes to stdout and stderr, warns of, or logs.

    Exceptions pass through, so a failure is never silent. The levels are restored on exit.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # torch's loggers have levels of their own: this reaches all
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
