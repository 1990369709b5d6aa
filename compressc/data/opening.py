"""From what a user writes to a `Dataset`: a name, a file, a function or an object."""

from __future__ import annotations

from pathlib import Path

from compressc.data.arrays import bad
from compressc.data.dataset import Dataset
from compressc.data.files import read_npz
from compressc.data.objects import as_dataset
from compressc.data.python_file import call_function
from compressc.errors import CompresscError
from compressc.plugins import DATASETS, load, origin
from compressc.strangers import reading

FORMS = "a name, file.npz or file.py:function"


def open_dataset(spec: str | Path | Dataset | object) -> Dataset:
    """Open a data set.

    Args:
        spec: the name of an entry point of group `compressc.datasets`, a `.npz` file,
            `file.py:function` (which runs that code), a `Dataset`, or any object that `as_dataset`
            takes.

    Raises:
        CompresscError: CC107 where no data set has that name, CC106 where a plugin is broken, CC300
            where the data cannot be read.
    """
    if not isinstance(spec, str | Path):
        return as_dataset(spec, type(spec).__name__)
    text = str(spec)
    path, colon, function = text.rpartition(":")
    if path.endswith(".py") and function:
        return call_function(Path(path), function)
    if text.endswith(".npz"):
        return read_npz(Path(text))
    if text.removesuffix(":").endswith(".py"):
        hint = f"write {text.removesuffix(':')}:function"
        raise bad("a Python file is given with the function to call", text, "", hint)
    if isinstance(spec, Path) or "/" in text or "\\" in text or "." in text or colon:
        raise bad(f"data is {FORMS}", repr(text), "", "save arrays x and y with numpy.savez")
    return _installed(text)


def _installed(name: str) -> Dataset:
    try:
        make = load(DATASETS, name)
    except CompresscError as error:
        if error.code != DATASETS.unknown:
            raise
        raise error.hinted(f"{error.hint}; or give {FORMS}") from None
    where = origin(DATASETS, name)
    wanted = f"the plugin of data set {name!r} returns a data set"
    with reading("CC106", wanted, where, "reinstall or report it to its authors"):
        made = make()
    try:
        return as_dataset(made, name)
    except CompresscError as error:
        raise CompresscError(
            "CC106", error.wanted, got=error.got, where=where, hint=error.hint
        ) from error
