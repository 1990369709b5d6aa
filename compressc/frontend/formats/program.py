"""Reads what `torch.export.save` writes without trusting it.

`torch.export.load` is not safe on a stranger's file: it falls back to full unpickling, evaluates
size expressions with sympy, walks attributes to find operators, imports modules that tree
specifications name, and pastes value names into generated Python. So the archive is read here: the
zip structure is checked, the weights are built from raw bytes, and the program's JSON is reduced to
the part that is needed, every string of it matched against what it may be. Only then does torch
see it, from memory: what was checked is what is read.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError, first_line
from compressc.frontend.formats.archive import damaged, load_tensors, open_zip
from compressc.frontend.formats.program_json import sanitize
from compressc.quiet import quiet

#: Weights may be views that share bytes, but not blow a small file up to a huge model.
_SHARING, _SLACK = 4, 64 << 20


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
            raise damaged(self.where, first_line(error)) from error

    def json(self, name: str) -> Any:
        """One member as JSON."""
        try:
            return json.loads(self.bytes(name).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise damaged(self.where, f"{name}: {first_line(error)}") from error

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
            raise damaged(self.where, f"{folder}{config}: {first_line(error)}") from error
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
            raise damaged(self.where, f"{member} holds a {type(value).__name__}, not a tensor")
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
        raise damaged(self.where, "sample inputs that are not (args, kwargs)")


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
        raise damaged(where, first_line(error)) from error
