"""Files of `torch.save`: weights are read safely, modules only where the user trusts the file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import nn

from compressc.errors import CompresscError, first_line
from compressc.frontend.archive import load_tensors
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


def run_factory(reference: str, weights: Mapping[str, torch.Tensor], *, where: str) -> nn.Module:
    """Build a module by the user's function and fill in weights.

    Args:
        reference: `pkg.mod:function` or `file.py:function`; it takes no arguments. It is the user's
            own code, named by the user, and runs.
        weights: a state dict.
        where: the file the weights come from.

    Raises:
        CompresscError: CC100 where the function cannot be had, CC200 where the weights do not fit.
    """
    function = _import(reference)
    try:
        module = function()
    except Exception as error:  # the user's own code may raise anything
        raise _bad_factory(reference, f"it raised {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise _bad_factory(reference, f"it returned a {type(module).__name__}")
    prefix = "module."  # left there by DataParallel
    if all(name.startswith(prefix) for name in weights):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    _fill(module, weights, where)
    return module


def _fill(module: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - weights), sorted(weights.keys() - own)
    wrong = [n for n, t in own.items() if n in weights and weights[n].shape != t.shape]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        raise CompresscError(
            "CC200",
            "the weights must fit the module that the factory builds",
            got="; ".join(problems),
            where=where,
            hint="use the factory the weights were trained with",
        )
    module.load_state_dict(dict(weights), strict=True)


def _import(reference: str) -> Callable[[], Any]:
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise _bad_factory(reference, "no function after a colon")
    try:
        module = (
            _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    except Exception as error:  # the user's own code may raise anything
        raise _bad_factory(reference, first_line(error)) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise _bad_factory(reference, f"no function '{name}' in {place}")
    return cast(Callable[[], Any], function)


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickles look it up by name
    spec.loader.exec_module(module)
    return module


def _bad_factory(reference: str, got: str) -> CompresscError:
    return CompresscError(
        "CC100",
        "a factory is a function without arguments that returns an nn.Module",
        got=got,
        where=f"--factory {reference}",
        hint="write pkg.mod:function or file.py:function",
    )
