"""`.pte` programs for ExecuTorch: XNNPACK on phones and other small machines."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch.utils import _pytree as pytree

from compressc.backend.backend import Backend, Runner
from compressc.backend.exporting import export_graph, unwritable
from compressc.backend.onnx import refused
from compressc.backend.signed_values import enough, signed_values
from compressc.ir import Graph
from compressc.quiet import quiet

#: Samples of the example: from 16 on, for torch takes other convolutions below and then believes
#: that there are never more.
_EXAMPLE = 16


class ExecuTorch(Backend):
    """`model.pte`, run by ExecuTorch with XNNPACK: the way to phones.

    Memory is planned when the file is written, for `most` samples in a batch; `load` runs more of
    them in parts. u8 values are written
    as s8 of the same meaning, which is what XNNPACK computes on. Python loads it with
    `executorch.runtime.Runtime`; Android, iOS and C++ have loaders of their own.
    """

    name: ClassVar[str] = "executorch"
    runtime: ClassVar[str] = "ExecuTorch"
    suffix: ClassVar[str] = "model.pte"

    most: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Samples of the largest batch."""

    @classmethod
    def missing(cls) -> str:
        """The package."""
        if find_spec("executorch") is not None:
            return ""
        return "the package executorch: pip install 'compressc[executorch]'"

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        """Write `model.pte`; the batch stays open up to `most` samples.

        Raises:
            CompresscError: CC503 where the package is missing, or cannot express the graph.
            OSError: where the disk is full.
        """
        if self.missing():
            raise unwritable(self.runtime, RuntimeError(self.missing()))
        inputs = enough(example, min(self.most, _EXAMPLE))
        shapes = [graph.type_of(op.name).shape for op in graph.inputs]
        bounds = tuple(
            {dim: self._bound(dim, int(x.shape[dim])) for dim in _open(shape)}
            for shape, x in zip(shapes, inputs, strict=True)
        )
        module = export_graph(graph, inputs).module()
        try:
            with quiet(), torch.no_grad():
                signed_values(module)
                program = torch.export.export(module, inputs, dynamic_shapes=bounds, strict=False)
                content = _compiled(program)
        except Exception as error:  # each of its passes raises types of its own
            raise unwritable(self.runtime, error) from error
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.suffix
        path.write_bytes(content)
        return path

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The file as a function.

        Raises:
            CompresscError: CC504 where the package is missing, or refuses the file.
        """
        try:
            with quiet():
                runtime = importlib.import_module("executorch.runtime").Runtime.get()
                _register_kernels()
                _keep_threads(threads)
                method = runtime.load_program(path).load_method("forward")
                if method is None:
                    raise RuntimeError("it has no method 'forward'")
        except Exception as error:  # as in emit
            raise refused(self.runtime, path, error) from error

        most = method.metadata.input_tensor_meta(0).sizes()[0]

        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = []
            for part in zip(*(torch.split(x.contiguous(), most) for x in inputs), strict=True):
                outputs = pytree.tree_leaves(method.execute(list(part)))
                # they lie in memory that the next call writes to
                found.append([x.clone() for x in outputs])
            return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

        return run

    def _bound(self, dim: int, size: int) -> Any:
        """Of an open dimension: the batch has the option, all others are as long as the example."""
        return torch.export.Dim.AUTO(min=1, max=self.most if dim == 0 else size)


def _open(shape: Sequence[Any]) -> Iterator[int]:
    """Its open dimensions."""
    return (dim for dim, size in enumerate(shape) if not isinstance(size, int))


def _compiled(program: torch.export.ExportedProgram) -> bytes:
    """XNNPACK takes what it can; the rest is left to portable kernels."""
    exir = importlib.import_module("executorch.exir")
    partitioning = importlib.import_module(
        "executorch.backends.xnnpack.partition.xnnpack_partitioner"
    )
    _register_kernels()
    edge = exir.to_edge_transform_and_lower(
        program, partitioner=[partitioning.XnnpackPartitioner()]
    )
    return bytes(edge.to_executorch().buffer)


def _register_kernels() -> None:
    """Those of quantized operators, for what XNNPACK leaves."""
    importlib.import_module("executorch.kernels.quantized")


def _keep_threads(threads: int) -> None:
    """Of the one pool that the process has. A loaded program holds on to it: before one is."""
    pool = importlib.import_module("executorch.extension.pybindings.portable_lib")
    if pool._threadpool_get_thread_count() != threads:
        pool._unsafe_reset_threadpool(threads)
