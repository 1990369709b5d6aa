"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import torch

from compressc.analysis import find_early_exits
from compressc.analysis.integers import rounds_values
from compressc.backend.backend import Backend, Runner
from compressc.backend.executed import (
    int8_layers,
    name_nodes,
    readers_of_weights,
    weights_of_floats,
)
from compressc.backend.exporting import export_graph, unwritable
from compressc.backend.file_record import Int8Layers
from compressc.backend.onnx_branches import branch
from compressc.backend.onnx_cleaning import (
    clean,
    dequantize_at_load,
    fresh_name,
    name_dimensions,
    name_values,
    nodes_of,
    split_quantized_gemms,
)
from compressc.backend.onnx_forms import has_forms, write_forms
from compressc.backend.onnx_recurrent import (
    dequantized,
    has_recurrent,
    integer_recurrent,
    translations,
    whole_calls,
    write_recurrent,
)
from compressc.backend.onnx_shared import store_once
from compressc.backend.onnx_weights import Beside
from compressc.backend.signed_values import unsigned_values
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.ir.recurrent import whole_sequences
from compressc.quiet import quiet

#: protobuf cannot hold more in one file; a little is left for the structure.
_LARGEST_FILE = 2_000_000_000

#: What ONNX Runtime computes in integers.
_INTEGER_NODES = frozenset(
    (
        *("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm"),
        *("MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
    )
)


class Onnx(Backend):
    """One `.onnx` file with the weights inside and an open batch; early exits are branches."""

    name: ClassVar[str] = "onnx"
    runtime: ClassVar[str] = "ONNX Runtime"
    suffix: ClassVar[str] = "model.onnx"
    overflows: ClassVar[bool] = True

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        """Write `model.onnx`; inputs and outputs have the names of the graph's values.

        Raises:
            CompresscError: CC503 where torch's exporter fails, or above 2 GB.
        """
        exported = export_onnx(unsigned_values(graph), example, contrib=True)
        split_quantized_gemms(exported.model.graph)
        only = [*dequantized(graph), *weights_of_floats(graph)] if rounds_values(graph) else None
        dequantize_at_load(exported.model.graph, only)
        if find_early_exits(graph):
            branch(exported.model)
        store_once(exported.model.graph)
        if exported.bytes > _LARGEST_FILE:
            raise CompresscError("CC503", "an .onnx file holds at most 2 GB", got=graph.name)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.suffix
        exported.save(path)
        return path

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The file as a function, on the CPU execution provider.

        Raises:
            CompresscError: CC504 where ONNX Runtime refuses the file.
        """
        session = self._session(path, threads)
        names = [value.name for value in session.get_inputs()]

        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            feed = {n: t.detach().numpy() for n, t in zip(names, inputs, strict=True)}
            return tuple(torch.from_numpy(array) for array in session.run(None, feed))

        return run

    def int8_layers(self, path: Path, graph: Graph) -> Int8Layers:
        """From the graph that ONNX Runtime makes of the file: which nodes read int8 weights."""
        import onnx

        with tempfile.TemporaryDirectory() as scratch:
            optimized = Path(scratch) / "optimized.onnx"
            self._session(path, 1, optimized)
            nodes = list(nodes_of(onnx.load(optimized).graph))
        read = (name for node in nodes if node.op_type in _INTEGER_NODES for name in node.input)
        reads = Counter(name.removesuffix(":T") for name in read)
        ran = readers_of_weights(graph, reads) | integer_recurrent(nodes)
        return int8_layers(graph, ran, self.runtime)

    def _session(self, path: Path, threads: int, optimized: Path | None = None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors; its warnings are advice to its developers
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        try:
            return onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common type
            raise refused(self.runtime, path, error) from error


def export_onnx(
    graph: Graph, example: tuple[torch.Tensor, ...], *, contrib: bool = False
) -> Beside:
    """The graph as a cleaned ONNX model, its large weights beside it.

    Args:
        graph: a well-formed graph.
        example: as for `export_graph`.
        contrib: whether ONNX Runtime's own operators may be used.

    Raises:
        CompresscError: CC503 where torch's exporter fails.
    """
    program = export_graph(graph, example)
    special = has_forms(graph) or has_recurrent(graph)
    with quiet(), whole_sequences(whole_calls(graph)):
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                verbose=False,
                optimize=not special,
                custom_translation_table=translations(graph),
            )
            assert exported is not None
            if special:
                write_forms(exported.model, graph, contrib=contrib)
                if has_recurrent(graph):
                    write_recurrent(exported.model, graph, contrib=contrib)
                exported.optimize()
        except Exception as error:  # the exporter raises what its translations raise
            raise unwritable("the ONNX exporter", error) from error
    beside = Beside.of(exported)
    model = beside.model
    name_values(model.graph, [op.name for op in graph.inputs], _output_names(graph))
    name_nodes(model, graph)
    clean(model)
    types = [graph.type_of(op.name) for op in graph.inputs]
    name_dimensions(model.graph.input, types)
    name_dimensions(model.graph.output, [graph.type_of(name) for name in graph.output_names])
    return beside


def _output_names(graph: Graph) -> list[str]:
    """The outputs' names; a value that is returned twice, or is an input, needs another one."""
    given = [op.name for op in graph.inputs]
    names: list[str] = []
    for name in graph.output_names:
        again = name in (*given, *names)
        names.append(fresh_name(name, {*given, *graph.output_names, *names}) if again else name)
    return names


def refused(runtime: str, path: Path, error: BaseException) -> CompresscError:
    """CC504 with the first line of a runtime's error."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return CompresscError(
        "CC504", f"{runtime} must accept the file", got=text[:200], where=str(path)
    )
