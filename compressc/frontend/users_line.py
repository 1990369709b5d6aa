"""Which line of the user's own code an error came from."""

from __future__ import annotations

import sys
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
    """Below the working folder, or as it is imported: `transformers/models/t5/modeling_t5.py`."""
    folders = [Path.cwd(), *(Path(folder) for folder in sys.path if folder)]
    fitting = [folder for folder in folders if path.is_relative_to(folder)]
    return path.relative_to(max(fitting, key=lambda f: len(f.parts))) if fitting else path
