"""Files of `torch.save`: weights are read safely, modules only where the user trusts the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError, first_line
from compressc.frontend.formats.archive import load_safetensors, load_tensors
from compressc.quiet import quiet

#: Where training scripts keep the weights inside a checkpoint.
_NESTED = ("state_dict", "model_state_dict", "model", "module")


def read_pickle(path: Path, *, trust: bool) -> nn.Module | dict[str, torch.Tensor]:
    """What a file of `torch.save` (or safetensors) holds.

    Raises:
        CompresscError: CC201 for a pickled object without `trust`, CC200 where it is no model.
    """
    try:
        value = _read_weights(path)
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
        value = _unpickle(path)
    if isinstance(value, nn.Module):
        return value
    return _state_dict(value, path)


def _read_weights(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] != b"{":
        return load_tensors(path, str(path))
    return load_safetensors(path)


def _unpickle(path: Path) -> Any:
    try:
        with quiet():
            return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a trusted pickle runs its own code, which may raise anything
        raise CompresscError(
            "CC200",
            "the pickled module cannot be loaded",
            got=first_line(error),
            where=str(path),
            hint="its classes must be importable here; torch.export.save needs none of them",
        ) from error


def _state_dict(value: Any, path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, wherever in it they are."""
    for key in ("", *_NESTED):
        inner = value.get(key) if key and isinstance(value, Mapping) else value
        if isinstance(inner, nn.Module):
            raise CompresscError(
                "CC200",
                "a file holds a module or its weights",
                got=f"a module under '{key}'",
                where=str(path),
                hint="save the module alone",
            )
        if isinstance(inner, Mapping) and inner and _all_tensors(inner):
            return {str(name): tensor for name, tensor in inner.items()}
    raise CompresscError(
        "CC200",
        "a file of torch.save holds a module or its state dict",
        got=type(value).__name__,
        where=str(path),
    )


def _all_tensors(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(item, torch.Tensor) for item in value.values())
