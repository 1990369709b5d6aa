"""Which line of the user's own code an error came from."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

#: What is not the user's: torch and this package.
_OTHERS = (*torch.__path__, str(Path(__file__).resolve().parents[1]))


def users_line(error: BaseException) -> str:
    """`net.py:12, in forward: if x.sum() > 0:`, the innermost; nothing where there is none.

    Args:
        error: as it was caught.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not str(path.resolve()).startswith(_OTHERS):
            return f"{_short(path)}:{frame.lineno}, in {frame.name}: {frame.line}"
    return ""


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
