"""The containers that formats share, read safely: zip archives, pickled tensors, safetensors."""

from __future__ import annotations

import io
import pickle
import zipfile
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
        if stream.read(4) == b"PK\x03\x04":
            open_zip(stream, where)
        stream.seek(0)
        try:
            with quiet():
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
