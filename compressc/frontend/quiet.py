"""Keeps torch's own warnings and log lines off the user's terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and torch's loggers; torch.export talks about matters that are ours."""
    previous = logging.root.manager.disable
    logging.disable(
        logging.ERROR
    )  # torch's loggers have levels of their own: only this reaches all
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def first_line(error: BaseException) -> str:
    """An exception on one line: its class and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
