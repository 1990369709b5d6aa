"""Run one function of a user's Python file, with errors that point into that file."""

from __future__ import annotations

import difflib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from compressc.beside import importable
from compressc.data.arrays import bad
from compressc.data.dataset import Dataset
from compressc.data.objects import as_dataset
from compressc.errors import CompresscError, first_line
from compressc.strangers import regular_file


def call_function(path: Path, function: str, workers: int = 0) -> Dataset:
    """Import the file, which the user named: trusted code; call its function without arguments.

    While it runs, the file's folder is importable, as it is for `python file.py`.

    Raises:
        CompresscError: CC300 where the file or the function is missing, either of them raises, or
            what comes back does not follow the protocol of `compressc.data.objects`.
    """
    with _pointing_into(path, f"{function}() of the data file returns a data set"):
        entry = _function(path, function)
        return as_dataset(entry(), f"{path.name}:{function}", workers)


@lru_cache(maxsize=16)
def load_function(path: Path, function: str) -> Callable[..., Any]:
    """A function of a user's file, which is imported once: trusted code.

    Raises:
        CompresscError: CC300 where the file or the function is missing, or the file raises.
    """
    with _pointing_into(path, "the file can be imported"):
        return _function(path, function)


def _function(path: Path, function: str) -> Callable[..., Any]:
    module = _load(path)
    entry = getattr(module, function, None)
    if not callable(entry):
        raise _no_function(path, function, module)
    return entry  # type: ignore[no-any-return]


@contextmanager
def _pointing_into(path: Path, wanted: str) -> Iterator[None]:
    """What a user's file raises names the line; meanwhile its folder is importable."""
    regular_file(path, "CC300", "the data file exists")
    with importable(path.resolve().parent):
        try:
            yield
        except (CompresscError, KeyboardInterrupt):
            raise
        # SystemExit too: a script that ends itself must not end the compiler without a word
        except BaseException as error:
            hint = "run the file by itself to see the whole traceback"
            raise bad(wanted, first_line(error), _line(error, path), hint) from error


def _load(path: Path) -> ModuleType:
    # a name of its own: `data.py` must not shadow, nor be, an installed module `data`
    spec = importlib.util.spec_from_file_location(f"_compressc_data_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up there
    spec.loader.exec_module(module)
    return module


def _no_function(path: Path, function: str, module: ModuleType) -> CompresscError:
    names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    near = difflib.get_close_matches(function, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:8]) or 'none'}"
    found = getattr(module, function, None)
    got = "none of that name" if found is None else f"a {type(found).__name__}"
    return bad(f"the data file has a function {function!r}", got, str(path), hint)


def _line(error: BaseException, path: Path) -> str:
    """`file.py:12`, the innermost line of the user's file that was running."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{path}:{error.lineno}"
    resolved = str(path.resolve())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if str(Path(frame.filename).resolve()) == resolved:
            return f"{path}:{frame.lineno}"
    return str(path)
