"""Files of `torch.save`: weights are read safely, modules only where the user trusts the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend.formats.archive import is_left_out, load_checkpoint, load_safetensors
from compressc.frontend.formats.checkpoint import Weights, find_weights
from compressc.quiet import quiet
from compressc.strangers import reading

_NAMED = 5


@dataclass(frozen=True)
class Pickled:
    """What a file of `torch.save` holds: a model, or weights.

    Attributes:
        model: a module or an exported program, from a trusted file.
        weights: every mapping of names to tensors in it.
        left_out: classes of the objects that were not read.
    """

    model: nn.Module | torch.export.ExportedProgram | None
    weights: tuple[Weights, ...] = ()
    left_out: tuple[str, ...] = ()


def read_pickle(path: Path, *, trust: bool, state_key: str | None = None) -> Pickled:
    """What a file of `torch.save` (or safetensors) holds.

    Raises:
        CompresscError: CC201 for a pickled object without `trust`, CC200 where it is no model.
    """
    try:
        value, left_out = _read_weights(path)
        if left_out and (trust or is_left_out(value)):
            names = ", ".join(left_out[:_NAMED])
            raise CompresscError("CC201", "only tensors can be read safely", got=names)
    except CompresscError as error:
        if error.code != "CC201":
            raise
        if not trust:
            raise CompresscError(
                "CC201",
                "a pickled module runs code from the file while it is loaded",
                got=error.got,
                where=str(path),
                hint="write it with torch.export.save, or give --trust-pickle if you made the file",
            ) from error
        value, left_out = _unpickle(path), ()
    model = _model_in(value, path, state_key)
    weights = tuple(find_weights(value))
    if model is None and not weights:
        raise CompresscError(
            "CC200",
            "a file of torch.save holds a module or its state dict",
            got=type(value).__name__ + _keys(value),
            where=str(path),
            hint="save model.state_dict(), or the whole model by torch.export.save",
        )
    return Pickled(model, weights, left_out)


def _keys(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    return f" with the keys {', '.join(map(str, list(value)[:_NAMED]))}" if value else " of nothing"


def _read_weights(path: Path) -> tuple[Any, tuple[str, ...]]:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] != b"{":
        return load_checkpoint(path, str(path))
    return load_safetensors(path), ()


def _unpickle(path: Path) -> Any:
    """The whole file, its code included; classes may lie beside it, as where it was written."""
    hint = (
        "its classes must be importable: installed, beside the file, in the current folder or on "
        "PYTHONPATH; torch.export.save needs none of them"
    )
    with reading("CC200", "the pickled module cannot be loaded", str(path), hint), quiet():
        return torch.load(path, map_location="cpu", weights_only=False)


def _model_in(
    value: Any, path: Path, state_key: str | None
) -> nn.Module | torch.export.ExportedProgram | None:
    """The one model in a file, also where it lies in a checkpoint (`{"model": module, ...}`)."""
    found = dict(_models(value, ""))
    if state_key is not None and state_key in found:
        return found[state_key]
    if len(found) > 1:
        raise CompresscError(
            "CC200",
            "a file holds one module, or the weights of one",
            got=f"modules under {', '.join(list(found)[:_NAMED])}",
            where=str(path),
            hint=f"say which: --state-key {next(iter(found))}",
        )
    return next(iter(found.values()), None)


def _models(
    value: Any, key: str, depth: int = 0
) -> Iterator[tuple[str, nn.Module | torch.export.ExportedProgram]]:
    if isinstance(value, nn.Module | torch.export.ExportedProgram):
        yield key, value
    elif isinstance(value, Mapping) and depth < 3:
        for name, inner in value.items():
            yield from _models(inner, f"{key}.{name}".lstrip("."), depth + 1)
