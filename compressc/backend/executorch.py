"""`.pte` programs for ExecuTorch: XNNPACK on phones and other small machines."""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch.utils import _pytree as pytree

from compressc.analysis.integers import rounds_values
from compressc.backend.backend import Backend, Runner
from compressc.backend.executed import holders_of_weights, int8_layers
from compressc.backend.exporting import export_graph, unwritable
from compressc.backend.file_record import Int8Layers
from compressc.backend.onnx import refused
from compressc.backend.signed_values import (
    dequantized_weights,
    drop_unused,
    enough,
    signed_values,
    stored_floats,
)
from compressc.ir import Graph, random_inputs
from compressc.quiet import quiet

#: Samples of the example: from 16 on, for torch takes other convolutions below and then believes
#: that there are never more, and above that there are never fewer.
_EXAMPLE = 16
#: Layers of XNNPACK that read integers: `Convolution (NHWC, QC8) IGEMM #1`, `Fully Connected (NC,
#: QD8, F32, QC8W) GEMM #1`; not `(NC, F32, QC8W)`.
_INTEGER_KERNEL = re.compile(r"(Convolution|Deconvolution|Fully Connected) \(N\w*C, Q\w*8[,)]")
#: Activations that a layer of XNNPACK ends with.
_FUSED = (torch.ops.aten.relu.default, torch.ops.aten.hardtanh.default)


class ExecuTorch(Backend):
    """`model.pte`, run by ExecuTorch with XNNPACK: the way to phones.

    Memory is planned when the file is written, for `most` samples in a batch; `load` runs more of
    them in parts. u8 values are written as s8 of the same meaning, which is what XNNPACK computes
    on. It computes a layer in integers where its result is rounded, too; where values are rounded,
    weights of the others are floats in the file. Python loads it with `executorch.runtime.Runtime`;
    Android, iOS and C++ have loaders of their own.
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
                if rounds_values(graph):
                    _float_weights(module)
                _read_apart(module)
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
        _, method = self._program(path, threads)
        most = method.metadata.input_tensor_meta(0).sizes()[0]

        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = []
            for part in zip(*(torch.split(x.contiguous(), most) for x in inputs), strict=True):
                outputs = pytree.tree_leaves(method.execute(list(part)))
                # they lie in memory that the next call writes to
                found.append([x.clone() for x in outputs])
            return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

        return run

    def int8_layers(self, path: Path, graph: Graph) -> Int8Layers | None:
        """From the kernels that a run tells of. They have no names: None where there are not as
        many with integers as there are layers whose integers XNNPACK holds.
        """
        ran = holders_of_weights(graph, _held(path))
        program, method = self._program(path, 1, traced=True)
        method.execute(list(random_inputs(graph, batch=1)))
        if len(_integer_kernels(program)) != len(ran):
            return None
        return int8_layers(graph, ran, self.runtime, rounds_results=True)

    def _program(self, path: Path, threads: int, *, traced: bool = False) -> tuple[Any, Any]:
        """The file and its only method, ready to run; `traced`, it notes the kernels that ran."""
        try:
            with quiet():
                runtime = importlib.import_module("executorch.runtime").Runtime.get()
                _register_kernels()
                _keep_threads(threads)
                program = runtime.load_program(path, enable_etdump=traced)
                method = program.load_method("forward")
                if method is None:
                    raise RuntimeError("it has no method 'forward'")
        except Exception as error:  # as in emit
            raise refused(self.runtime, path, error) from error
        return program, method

    def _bound(self, dim: int, size: int) -> Any:
        """Of an open dimension: the batch has the option, all others are as long as the example."""
        # the example must be below it, or its size is the only one
        most = max(self.most, _EXAMPLE + 1) if self.most >= _EXAMPLE else self.most
        return torch.export.Dim.AUTO(min=1, max=most if dim == 0 else size)


def _open(shape: Sequence[Any]) -> Iterator[int]:
    """Its open dimensions."""
    return (dim for dim, size in enumerate(shape) if not isinstance(size, int))


def _float_weights(module: torch.fx.GraphModule) -> None:
    """Store weights of layers whose result is not rounded as floats.

    XNNPACK has no kernel for those with integers, and leaves them to portable kernels that make
    floats of them at each run: ten times as slow as its own of floats.
    """
    for node in dequantized_weights(module):
        if not all(_is_rounded(user) for user in node.users):
            node.replace_all_uses_with(stored_floats(module, node))
    drop_unused(module)


def _read_apart(module: torch.fx.GraphModule) -> None:
    """Give each reader of a dequantized value a dequantization of its own.

    XNNPACK's partitioner takes all readers of one into one part, also where others stand between
    them, and then finds that its parts go in a circle.
    """
    for node in list(module.graph.nodes):
        if node.target is not torch.ops.quantized_decomposed.dequantize_per_tensor.default:
            continue
        for user in list(node.users)[1:]:
            with module.graph.inserting_after(node):
                own = module.graph.node_copy(node)
            user.replace_input_with(node, own)
    module.recompile()


def _is_rounded(layer: torch.fx.Node) -> bool:
    """Whether all that reads a layer, or the activation behind it, is one rounding."""
    users = list(layer.users)
    if len(users) == 1 and users[0].target in _FUSED:
        users = list(users[0].users)
    rounding = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return len(users) == 1 and users[0].target is rounding


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


def _held(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    """What XNNPACK holds of the file, as bytes: weights, and scales and biases among them."""
    serialization = importlib.import_module("executorch.exir._serialize._program")
    named = serialization.deserialize_pte_binary(path.read_bytes()).named_data
    for entry in named.pte_data.values() if named is not None else ():
        yield np.frombuffer(named.buffers[entry.buffer_index], np.int8)


def _integer_kernels(program: Any) -> list[str]:
    """The layers that ran with integers, by the names that XNNPACK calls its kernels."""
    serialization = importlib.import_module("executorch.devtools.etdump.serialize")
    with tempfile.TemporaryDirectory() as scratch, quiet():
        dump = Path(scratch) / "run.etdp"
        program.write_etdump_result_to_file(str(dump), str(Path(scratch) / "values.bin"))
        found = serialization.deserialize_from_etdump_flatcc(dump.read_bytes())
    events = (event.profile_event for run in found.run_data for event in run.events or ())
    names = (event.delegate_debug_id_str or "" for event in events if event is not None)
    return [name for name in names if _INTEGER_KERNEL.match(name)]
