"""What a graph was traced from: how that module is called, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from compressc.frontend.inputs.arguments import Arguments


@dataclass(frozen=True)
class Origin:
    """The module behind a graph.

    Attributes:
        call: one call of its `forward`, whose tensors are the graph's inputs in order.
        class_: its class.
        config: its configuration, where it is a model of transformers; else None.
        folder: that it was read from, where it was one of Hugging Face.
    """

    call: Arguments
    class_: type[nn.Module]
    config: Any = None
    folder: Path | None = None
