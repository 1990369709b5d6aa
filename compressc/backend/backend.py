"""What a back end is: it writes a file from a graph, and runs such a file in its own runtime.

A plugin adds one as an entry point of the group `compressc.backends`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

import torch

from compressc.backend.file_record import Int8Layers
from compressc.frontend import Origin
from compressc.ir import Graph
from compressc.plugins import BACKENDS, Group
from compressc.spec import Configured, parse

#: The model's inputs -> its outputs, flattened in order. Tensors are on the CPU.
Runner = Callable[..., tuple[torch.Tensor, ...]]


class Backend(Configured, ABC):
    """One output format and the runtime that executes it.

    Class variables:
        name: as in `--emit`, the entry point and the report.
        runtime: what runs the file, for the report.
        suffix: what the file is called inside the output folder.
        overflows: whether its int8 sums overflow on x86 without VNNI.
    """

    entry_points: ClassVar[Group] = BACKENDS
    runtime: ClassVar[str]
    suffix: ClassVar[str]
    overflows: ClassVar[bool] = False

    @classmethod
    def missing(cls) -> str:
        """What this machine lacks to write and run such files, in words; empty: nothing."""
        return ""

    def of(self, teacher: Graph, origin: Origin | None) -> Self:
        """The same back end for graphs made of this teacher, where it needs to know.

        Args:
            teacher: the graph that others are made of.
            origin: the module that it was traced from, where there was one.

        Raises:
            CompresscError: CC503 where it can write nothing of that origin.
        """
        return self

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

    def int8_layers(self, path: Path, graph: Graph) -> Int8Layers | None:
        """Which layers of a quantized graph the runtime computes in integers; None: it has no such.

        Args:
            path: what `emit` returned.
            graph: what it was emitted from.
        """
        return None

    def files(self, path: Path) -> list[Path]:
        """Every file of an emitted model, for counting bytes."""
        return [path]


def load_backend(text: str) -> Backend:
    """The back end of that name, with options where the text gives any.

    Raises:
        CompresscError: CC107 for an unknown name, CC106 for a broken plugin, CC102 or CC103 for
            options that are not its.
    """
    return parse(Backend, text)  # type: ignore[type-abstract]
