"""The tasks that are inferred, and where a user's own is found."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from compressc.beside import importable
from compressc.errors import CompresscError
from compressc.plugins import nearest
from compressc.spec import make, parse, parse_options
from compressc.strangers import reading, regular_file
from compressc.tasks.classification import Classification
from compressc.tasks.embedding import Embedding
from compressc.tasks.multilabel import Multilabel
from compressc.tasks.regression import Regression
from compressc.tasks.response import Kind, Response
from compressc.tasks.rows import RowTask
from compressc.tasks.segmentation import Segmentation
from compressc.tasks.task import Task
from compressc.tasks.tokens import Tokens

#: Every reading of an output is one of these.
INFERRED: tuple[RowTask, ...] = (
    Classification(),
    Tokens(),
    Segmentation(),
    Multilabel(),
    Regression(),
    Embedding(),
)
_IN_FILE = re.compile(
    r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)\s*(?:\((?P<options>.*)\))?$", re.DOTALL
)


def infer(reading: Response, shape: Sequence[Any]) -> RowTask:
    """The task of an output of that shape that is read so."""
    return next(task for task in INFERRED if task.takes(reading, shape))


def of_kind(kind: Kind) -> RowTask:
    """The simplest task that judges an output of that kind."""
    return next(task for task in INFERRED if kind in task.answers)


def load_task(text: str) -> Task:
    """A task by name, or from a file, with options where the text gives any.

    Args:
        text: `segmentation`, `name(option=value)` or `file.py:Class`, which runs that code.

    Raises:
        CompresscError: CC107 for an unknown name, CC106 for a broken plugin or file, CC102 or CC103
            for options that are not its.
    """
    found = _IN_FILE.match(text.strip())
    if found:
        cls = _from_file(Path(found["path"]), found["name"])
        return make(cls, parse_options(found["options"] or "", found["name"]))
    if text.rstrip(":").endswith(".py"):
        raise CompresscError(
            "CC100", "a task of one's own is written file.py:Class", got=text or "nothing"
        )
    try:
        return parse(Task, text)  # type: ignore[type-abstract]
    except CompresscError as error:
        if error.code != Task.entry_points.unknown:
            raise
        raise error.hinted(f"{error.hint}; or give file.py:Class") from None


def _from_file(path: Path, name: str) -> type[Task]:
    """Import a user's file, which is trusted code, and take the class of that name."""
    regular_file(path, "CC106", "the file of the task exists")
    where = f"{path}:{name}"
    with importable(path.resolve().parent):
        before = set(sys.modules)
        with reading("CC106", "the file of a task can be imported", str(path)):
            module = _run(path)
        found = getattr(module, name, None)
        if not (isinstance(found, type) and issubclass(found, Task)):
            classes = {n: v for n, v in vars(module).items() if isinstance(v, type)}
            names = [n for n, cls in classes.items() if issubclass(cls, Task)]
            got = "none of that name" if found is None else repr(found)
            wanted = f"the file has a class '{name}', {Task.entry_points.must_be}"
            raise CompresscError("CC106", wanted, got=got, where=where, hint=nearest(name, names))
        if inspect.isabstract(found):
            missing = ", ".join(f"{method}()" for method in sorted(found.__abstractmethods__))
            raise CompresscError("CC106", f"the task must define {missing}", where=where)
        beside = {getattr(sys.modules[m], "__file__", None) for m in set(sys.modules) - before}
    if not isinstance(getattr(found, "name", None), str):
        raise CompresscError("CC106", "the task has a name: name = 'detector'", where=where)
    found.sources = _read(path.resolve().parent, beside)
    return found


def _read(folder: Path, files: Iterable[str | None]) -> dict[str, str]:
    """sha256 of the files that lie in a folder, sorted."""
    inside = sorted(path for file in files if file and folder in (path := Path(file)).parents)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in inside}


def _run(path: Path) -> object:
    # a name of its own: `task.py` must not shadow, nor be, an installed module `task`
    name = f"_compressc_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
