"""`.pt2`, the archive of `torch.export`, run by PyTorch."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any, ClassVar

import torch

from compressc.backend.backend import Backend, Runner
from compressc.backend.exporting import export_graph, unwritable
from compressc.backend.onnx import refused
from compressc.backend.threads import torch_runner
from compressc.ir import Graph
from compressc.quiet import quiet


class Pt2(Backend):
    """One `.pt2` file: ATen calls and weights, int8 where the graph is quantized.

    PyTorch has no int8 kernels for the quantize/dequantize form and computes it in float: such a
    file is small, not fast. Load it with `torch.export.load`; a quantized one needs
    `import torch.ao.quantization.fx._decomposed` before, which registers its operators.
    """

    name: ClassVar[str] = "pt2"
    runtime: ClassVar[str] = "PyTorch"
    suffix: ClassVar[str] = "model.pt2"

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        """Write `model.pt2`; the batch stays open.

        Raises:
            CompresscError: CC503 where torch.export fails.
            OSError: where the disk is full.
        """
        program = export_graph(graph, example)
        _strip_remarks(program)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.suffix
        try:
            with _Patient(path) as file, quiet():
                torch.export.save(program, file)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        except Exception as error:  # the serializer asserts, and raises types of its own
            path.unlink(missing_ok=True)
            raise unwritable("torch.export.save", error) from error
        return path

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The file as a function.

        Raises:
            CompresscError: CC504 where torch cannot read the file.
        """
        importlib.import_module("torch.ao.quantization.fx._decomposed")
        try:
            with quiet():
                module = torch.export.load(path).module()
        except Exception as error:  # as in emit
            raise refused(self.runtime, path, error) from error
        return torch_runner(module, threads)


class _Patient(io.FileIO):
    """A new file that tells of a full disk when it is closed, and takes all bytes until then.

    torch's archive writer ends the process where a write fails: its destructor raises.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it, or nothing once the disk has refused."""
        rest = memoryview(data).cast("B")
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(data)

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: of the first write that failed.
        """
        super().close()
        error, self.error = self.error, None
        if error is not None:
            raise error


def _strip_remarks(program: torch.export.ExportedProgram) -> None:
    """Drop the example, which is the user's data, and stack traces, which name their files."""
    program.example_inputs = None
    for node in program.graph.nodes:
        meta: dict[str, Any] = node.meta
        for key in ("stack_trace", "source_fn_stack", "from_node", "torch_fn"):
            meta.pop(key, None)
