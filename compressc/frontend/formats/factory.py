"""A module that the user's own function builds, filled with the weights of a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from compressc.errors import CompresscError, first_line


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
