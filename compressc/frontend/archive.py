"""Reads what `torch.export.save` writes without trusting it.

`torch.export.load` is not safe on a stranger's file: it falls back to full unpickling, evaluates
size expressions with sympy, walks attributes to find operators, imports modules that tree
specifications name, and pastes value names into generated Python. So the archive is read here: the
zip structure is checked, the weights are built from raw bytes, and the program's JSON is reduced to
the part that is needed, every string of it matched against what it may be. Only then does torch
see it, from memory: what was checked is what is read.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from compressc.errors import CompresscError, first_line
from compressc.frontend.program_json import sanitize
from compressc.quiet import quiet

#: Weights may be views that share bytes, but not blow a small file up to a huge model.
_SHARING, _SLACK = 4, 64 << 20
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
        raise _damaged(where, first_line(error)) from error
    members = archive.infolist()
    names = [member.filename for member in members]
    size = _size_of(source)
    if len(members) > _MAX_MEMBERS or len(set(names)) != len(names):
        raise _damaged(where, f"{len(members)} members, {len(set(names))} names")
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise _damaged(where, f"a member named {member.filename!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
            raise _damaged(where, f"a compressed or encrypted member {member.filename!r}")
    if sum(member.file_size for member in members) > size:
        raise _damaged(where, f"members larger than the file's {size} bytes")
    return archive


def _size_of(source: Path | IO[bytes]) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    return source.seek(0, io.SEEK_END)


def read_program(path: Path) -> torch.export.ExportedProgram:
    """The exported program of a `.pt2` archive, on the CPU, with its example inputs.

    Raises:
        CompresscError: CC200 where the archive is damaged, CC201 where it would run code.
    """
    where = str(path)
    with open_zip(path, where) as archive:
        reader = _Reader(archive, where, path.stat().st_size)
        text = reader.json("models/model.json")
        program = sanitize(text, where)
        weights = reader.tensors("data/weights/", "model_weights_config.json")
        constants = reader.tensors("data/constants/", "model_constants_config.json")
        example = reader.example()
    return _deserialize(program, weights, constants, example, where)


class _Reader:
    """The members of one archive, all below one folder whose name is arbitrary."""

    def __init__(self, archive: zipfile.ZipFile, where: str, size: int) -> None:
        self.archive, self.where = archive, where
        self.budget = _SHARING * size + _SLACK
        self.root = archive.namelist()[0].split("/")[0]

    def bytes(self, name: str) -> bytes:
        """One member; its checksum is verified by the zip reader."""
        try:
            return self.archive.read(f"{self.root}/{name}")
        except (KeyError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
            raise _damaged(self.where, first_line(error)) from error

    def json(self, name: str) -> Any:
        """One member as JSON."""
        try:
            return json.loads(self.bytes(name).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise _damaged(self.where, f"{name}: {first_line(error)}") from error

    def tensors(self, folder: str, config: str) -> dict[str, torch.Tensor]:
        """The tensors a payload table lists; entries of one member share its memory."""
        payloads: dict[str, torch.Tensor] = {}
        found = {}
        try:
            for name, entry in self.json(folder + config)["config"].items():
                member = folder + entry["path_name"]
                if entry["use_pickle"] or entry["tensor_meta"] is None:
                    found[name] = self._unpickled(member)
                    continue
                if member not in payloads:
                    payloads[member] = _payload(self.bytes(member))
                tensor = self._view(payloads[member], entry["tensor_meta"])
                trains = bool(entry["tensor_meta"]["requires_grad"])
                found[name] = nn.Parameter(tensor, trains) if entry["is_param"] else tensor
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise _damaged(self.where, f"{folder}{config}: {first_line(error)}") from error
        return found

    def _view(self, payload: torch.Tensor, meta: Mapping[str, Any]) -> torch.Tensor:
        dtype = _dtype(meta["dtype"])
        size, stride = ([_int(n) for n in meta[key]] for key in ("sizes", "strides"))
        offset, numel = _int(meta["storage_offset"]), math.prod(size)
        self.budget -= numel * dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        fits = numel == 0 or (last + 1) * dtype.itemsize <= len(payload)
        if min([offset, *size, *stride]) < 0 or not fits or self.budget < 0:
            raise ValueError(f"a tensor of {size} does not fit into {len(payload)} bytes")
        if numel == 0:
            return torch.empty(size, dtype=dtype)
        return torch.as_strided(payload.view(dtype), size, stride, offset)

    def _unpickled(self, member: str) -> torch.Tensor:
        value = load_tensors(self.bytes(member), f"{self.where}, {member}")
        if not isinstance(value, torch.Tensor):
            raise _damaged(self.where, f"{member} holds a {type(value).__name__}, not a tensor")
        return value

    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The inputs the program was traced with, where the archive has them."""
        if f"{self.root}/data/sample_inputs/model.pt" not in self.archive.namelist():
            return None
        data = self.bytes("data/sample_inputs/model.pt")
        if not data:
            return None
        try:
            value = load_tensors(data, f"{self.where}, its sample inputs")
        except CompresscError as error:
            hint = "save it without them: program.example_inputs = None"
            raise error.hinted(hint) from error
        match value:
            case (tuple() as args, dict() as kwargs):
                return args, kwargs
        raise _damaged(self.where, "sample inputs that are not (args, kwargs)")


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
            raise _damaged(where, first_line(error)) from error


def _globals(error: Exception) -> str:
    """What the restricted unpickler refused, without its advice to trust the file."""
    text = str(error)
    for marker in ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL "):
        if marker in text:
            return text.partition(marker)[2].split()[0].rstrip(".,")
    return "a pickled object"


def _payload(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def _dtype(code: Any) -> torch.dtype:
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    dtype: torch.dtype = _SERIALIZE_TO_TORCH_DTYPE[code]
    return dtype


def _int(size: Any) -> int:
    value = size["as_int"]
    if type(value) is not int:
        raise ValueError("a weight's size is not a number")
    return value


def _deserialize(
    program: dict[str, Any],
    weights: dict[str, torch.Tensor],
    constants: dict[str, torch.Tensor],
    example: tuple[tuple[Any, ...], dict[str, Any]] | None,
    where: str,
) -> torch.export.ExportedProgram:
    from torch._export.serde import schema
    from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass

    try:
        with quiet():
            parsed = _dict_to_dataclass(schema.ExportedProgram, program)  # type: ignore[no-untyped-call]
            reader = ExportedProgramDeserializer()
            return reader.deserialize(parsed, weights, constants, example)
    except Exception as error:  # torch's reader meets a stranger's JSON: any error says damaged
        raise _damaged(where, first_line(error)) from error


def _damaged(where: str, got: str) -> CompresscError:
    return CompresscError(
        "CC200",
        "the archive is damaged, or was not written by torch.export.save",
        got=got,
        where=where,
        hint="export the model again with this version of torch",
    )
