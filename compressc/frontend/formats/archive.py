"""The containers that formats share, read safely: zip archives, pickled tensors, safetensors."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch

from compressc.errors import CompresscError, first_line
from compressc.quiet import quiet

_MAX_MEMBERS = 1_000_000


def open_zip(source: Path | IO[bytes], where: str) -> zipfile.ZipFile:
    """A zip archive that is safe to read: nothing compressed, nothing overlapping, no odd names.

    torch writes stored (uncompressed) members only, so whatever an archive claims to hold has to be
    there byte for byte: a zip bomb cannot pass.

    Raises:
        CompresscError: CC200 where the archive is damaged or was not written by torch.
    """
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise damaged(where, first_line(error)) from error
    members = archive.infolist()
    names = [member.filename for member in members]
    size = _size_of(source)
    if len(members) > _MAX_MEMBERS or len(set(names)) != len(names):
        raise damaged(where, f"{len(members)} members, {len(set(names))} names")
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise damaged(where, f"a member named {member.filename!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
            raise damaged(where, f"a compressed or encrypted member {member.filename!r}")
    if sum(member.file_size for member in members) > size:
        raise damaged(where, f"members larger than the file's {size} bytes")
    return archive


def _size_of(source: Path | IO[bytes]) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    return source.seek(0, io.SEEK_END)


def load_tensors(source: bytes | Path, where: str) -> Any:
    """Tensors and plain containers that `torch.save` wrote, through torch's restricted unpickler.

    Raises:
        CompresscError: CC201 where anything else is in it, CC200 where it is damaged.
    """
    stream: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream:
        return _load(stream, where, {})


def load_checkpoint(path: Path, where: str) -> tuple[Any, tuple[str, ...]]:
    """What a trainer wrote with `torch.save`: tensors, plain containers, and objects left out.

    An object of any other class (arguments, a numpy number, a configuration) becomes an empty one
    of ours: its class is neither looked up nor imported, and nothing of it runs.

    Returns:
        The value, and the names of the classes that were left out.

    Raises:
        CompresscError: CC201 where even so something of it would run, CC200 where it is damaged.
    """
    with path.open("rb") as stream:
        try:
            return _load(stream, where, {}), ()
        except CompresscError as error:
            names = _unknown(stream) if error.code == "CC201" else []
            if not names:
                raise
        stand_ins: dict[str, type] = {name: type(name, (_LeftOut,), {}) for name in names}
        for _ in names:
            try:
                return _load(stream, where, stand_ins), tuple(names)
            except CompresscError as error:
                filled = [name for name in names if f".{name}'" in error.got]
                if not filled:
                    raise
                stand_ins[filled[0]] = _LeftOutDict
        return _load(stream, where, stand_ins), tuple(names)


class _LeftOut:
    """Stands in a checkpoint for an object that was not read."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _LeftOut:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _LeftOutDict:
    """Stands for an object that is filled like a dict: its items can be read."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def is_left_out(value: Any) -> bool:
    """Whether a value of a checkpoint is an object that was not read."""
    return isinstance(value, _LeftOut)


def _unknown(stream: IO[bytes]) -> list[str]:
    """The classes and functions a file names that the restricted unpickler does not know."""
    stream.seek(0)
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(stream))
    except Exception:  # an old or a damaged file: it stays refused
        return []


def _load(stream: IO[bytes], where: str, stand_ins: Mapping[str, type]) -> Any:
    stream.seek(0)
    if stream.read(4) == b"PK\x03\x04":
        open_zip(stream, where)
    stream.seek(0)
    allowed: list[Any] = [(class_, name) for name, class_ in stand_ins.items()]
    try:
        with quiet(), torch.serialization.safe_globals(allowed):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CompresscError(
            "CC201", "only tensors can be read safely", got=_globals(error), where=where
        ) from error
    except Exception as error:  # torch.load meets a stranger's bytes: any error says damaged
        raise damaged(where, first_line(error)) from error


def _globals(error: Exception) -> str:
    """What the restricted unpickler refused, without its advice to trust the file."""
    text = str(error)
    for marker in ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL "):
        if marker in text:
            return text.partition(marker)[2].split()[0].rstrip(".,")
    if "SETITEM" in text:
        return text.partition("but got ")[2].split("\n")[0][:200]
    return "a pickled object"


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, which map its pages.

    Raises:
        CompresscError: CC200 where it is damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CompresscError(
            "CC200", "the safetensors file is damaged", got=first_line(error), where=str(path)
        ) from error


def damaged(where: str, got: str) -> CompresscError:
    """CC200 for an archive that does not read."""
    return CompresscError(
        "CC200",
        "the archive is damaged, or was not written by torch.export.save",
        got=got,
        where=where,
        hint="export the model again with this version of torch",
    )
