"""From what a user writes to a `Dataset`: a name, a file, a function or an object."""

from __future__ import annotations

from pathlib import Path

from compressc.data.arrays import bad
from compressc.data.dataset import Dataset
from compressc.data.files import npz_columns, read_npy, read_npz, read_safetensors, sources_of
from compressc.data.hugging_face import is_saved, load_saved
from compressc.data.keys import SUFFIXES
from compressc.data.mapped import npy_files, safetensors_file
from compressc.data.objects import as_dataset
from compressc.data.python_file import call_function
from compressc.data.source import Source
from compressc.errors import CompresscError
from compressc.plugins import DATASETS, load, origin
from compressc.strangers import reading

FORMS = "a name, file.npz, x.npy,y.npy, file.safetensors, a folder or file.py:function"


def open_dataset(spec: str | Path | Dataset | object, workers: int = 0) -> Dataset:
    """Open a data set.

    Args:
        spec: the name of an entry point of group `compressc.datasets`, a `.npz` or
            `.safetensors` file, `.npy` files with commas between them, a folder of `.npy` files or
            one that `datasets` saved, `file.py:function` (which runs that code), a `Dataset`, or
            any object that `as_dataset` takes.
        workers: processes that make samples ahead, where a user's code makes them.

    Raises:
        CompresscError: CC107 where no data set has that name, CC106 where a plugin is broken, CC300
            where the data cannot be read.
    """
    if not isinstance(spec, str | Path):
        return as_dataset(spec, type(spec).__name__, workers)
    text = str(spec)
    path, colon, function = text.rpartition(":")
    if path.endswith(".py") and function:
        return call_function(Path(path), function, workers)
    found = _file(text)
    if found is not None:
        return found
    if text.removesuffix(":").endswith(".py"):
        hint = f"write {text.removesuffix(':')}:function"
        raise bad("a Python file is given with the function to call", text, "", hint)
    if isinstance(spec, Path) or "/" in text or "\\" in text or "." in text or colon:
        raise bad(f"data is {FORMS}", repr(text), "", "save arrays x and y with numpy.savez")
    return _installed(text, workers)


def open_part(spec: str, part: str = "", workers: int = 0) -> Source:
    """One part of the data, each sample once, in the order that they have there.

    Args:
        spec: as for `open_dataset`.
        part: its name; `test` where it is empty and the data are divided. Arrays in files that are
            not divided are one part, which has no name.
        workers: as for `open_dataset`.

    Raises:
        CompresscError: as `open_dataset`; CC300 where there is no part of that name.
    """
    parts = _parts_of_files(spec)
    if parts is None:
        dataset = open_dataset(spec, workers)
        found = {name: getattr(dataset, name, None) for name in SUFFIXES}
        parts = {name: source for name, source in found.items() if source is not None}
    if "" in parts and not part:
        return parts[""]
    name = part or "test"
    if name not in parts:
        named = [have for have in parts if have]
        got = f"no {name!r}" if named else "one undivided set"
        hint = f"choose of {', '.join(named)}" if named else "leave --part out"
        raise bad("the part is one that the data have", got, str(spec), hint)
    return parts[name]


def _parts_of_files(text: str) -> dict[str, Source] | None:
    """The parts of arrays in files; None where the text names none."""
    if text.endswith(".npz"):
        return sources_of(npz_columns(Path(text)), text)
    if text.endswith(".safetensors"):
        return sources_of(safetensors_file(Path(text)), text)
    if text.endswith(".npy"):
        return sources_of(npy_files([Path(part.strip()) for part in text.split(",")]), text)
    if _is_folder(text) and not is_saved(Path(text)):
        return sources_of(npy_files(_files_of(Path(text))), text)
    return None


def _file(text: str) -> Dataset | None:
    """What the file or folder of that name holds; None where it has not the form of one."""
    if text.endswith(".npz"):
        return read_npz(Path(text))
    if text.endswith(".safetensors"):
        return read_safetensors(Path(text))
    if text.endswith(".npy"):
        return read_npy([Path(part.strip()) for part in text.split(",")], text)
    folder = Path(text)
    if not _is_folder(text):
        return None
    if is_saved(folder):
        return as_dataset(load_saved(folder), folder.name)
    return read_npy(_files_of(folder), folder.name)


def _is_folder(text: str) -> bool:
    return ("/" in text or "\\" in text) and Path(text).is_dir()


def _files_of(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.npy"))
    if not files:
        hint = "numpy.save(folder / 'x.npy', x), and y.npy where there are labels"
        raise bad("a folder of data holds .npy files", "none", str(folder), hint)
    return files


def _installed(name: str, workers: int) -> Dataset:
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
        return as_dataset(made, name, workers)
    except CompresscError as error:
        raise CompresscError(
            "CC106", error.wanted, got=error.got, where=where, hint=error.hint
        ) from error
