"""compressc: a compression compiler for PyTorch models.

`import compressc` loads no plugin and no technique; names below are imported when first used.
"""

from __future__ import annotations

from compressc.interruption import end_at_signals, is_command

if is_command():  # before anything that takes time: Ctrl-C then ends in one line, too
    end_at_signals()

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compressc.telemetry import stop_reporting

stop_reporting()  # before any library is imported that would report its use

# The function has the name of its module, so it must be here before anyone imports the module.
from compressc.compile import compile  # noqa: E402

if TYPE_CHECKING:
    from compressc.compile import Compiled
    from compressc.data import Dataset, Split
    from compressc.errors import CompresscError
    from compressc.frontend import load_model
    from compressc.ir import Graph, Op, Ref
    from compressc.pipeline import Context, Pass

__version__ = "0.1.0"

_HOMES = {
    "Compiled": "compressc.compile",
    "CompresscError": "compressc.errors",
    "Context": "compressc.pipeline",
    "Dataset": "compressc.data",
    "Graph": "compressc.ir",
    "Op": "compressc.ir",
    "Pass": "compressc.pipeline",
    "Ref": "compressc.ir",
    "Split": "compressc.data",
    "load_model": "compressc.frontend",
}

__all__ = [
    "Compiled",
    "CompresscError",
    "Context",
    "Dataset",
    "Graph",
    "Op",
    "Pass",
    "Ref",
    "Split",
    "compile",
    "load_model",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'compressc' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
