"""What a back end is: it writes a file from a graph, and runs such a file in its own runtime.

A plugin adds one as an entry point of the group `compressc.backends`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch

from compressc.ir import Graph

#: The model's inputs -> its outputs, flattened in order. Tensors are on the CPU.
Runner = Callable[..., tuple[torch.Tensor, ...]]


class Backend(ABC):
    """One output format and the runtime that executes it.

    Class variables:
        name: as in `--emit`, the entry point and the report.
        runtime: what runs the file, for the report.
        suffix: what the file is called inside the output folder.
    """

    name: ClassVar[str]
    runtime: ClassVar[str]
    suffix: ClassVar[str]

    @abstractmethod
    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        """Write the graph and return the path that `load` takes.

        Args:
            graph: a well-formed graph.
            folder: where to write; made where missing.
            example: inputs [n, ...] of the kind the model takes; the batch stays open.

        Raises:
            CompresscError: CC503 where the format or its exporter cannot express the graph.
        """

    @abstractmethod
    def load(self, path: Path, threads: int = 1) -> Runner:
        """The file, ready to run in its runtime.

        Args:
            path: what `emit` returned.
            threads: threads the runtime may use.

        Raises:
            CompresscError: CC504 where the runtime refuses the file.
        """

    def files(self, path: Path) -> list[Path]:
        """Every file of an emitted model, for counting bytes."""
        return [path]
