"""A module that the user's own function builds."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import nn

from compressc.errors import CompresscError
from compressc.frontend.export import check_initialised
from compressc.strangers import reading

_WANTED = "a factory is a function without arguments that returns an nn.Module"
_HINT = "write pkg.mod:function or file.py:function"


def run_factory(reference: str, option: str = "--factory") -> nn.Module:
    """Build a module by the user's function.

    Args:
        reference: `pkg.mod:function` or `file.py:function`; it takes no arguments. It is the user's
            own code, named by the user, and runs.
        option: what the user gave it with.

    Raises:
        CompresscError: CC100 where the function cannot be had, or returns no module.
    """
    where = f"{option} {reference}"
    function = _import(reference, where)
    with reading("CC100", _WANTED, where, "call it by itself to see the traceback"):
        module = function()
    if not isinstance(module, nn.Module):
        raise _bad_factory(where, f"it returned a {type(module).__name__}")
    check_initialised(module)
    return module


def _import(reference: str, where: str) -> Callable[[], Any]:
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise _bad_factory(where, "no function after a colon")
    with reading("CC100", _WANTED, where, _HINT):
        module = (
            _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    function = getattr(module, name, None)
    if not callable(function):
        raise _bad_factory(where, f"no function '{name}' in {place}")
    return cast(Callable[[], Any], function)


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"_compressc_factory_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up there
    spec.loader.exec_module(module)
    return module


def _bad_factory(where: str, got: str) -> CompresscError:
    return CompresscError("CC100", _WANTED, got=got, where=where, hint=_HINT)
