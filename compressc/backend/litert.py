"""`.tflite` models for LiteRT: Android and other small machines."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

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
from compressc.ir import Graph
from compressc.quiet import quiet

_PACKAGES = ("litert_torch", "ai_edge_litert")
#: What computes a layer. Kernels of LiteRT and of XNNPACK are those of the types they are given.
_COMPUTING = frozenset(
    ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")
)
#: Samples of the example that torch traces with: from 16 on, for it takes other convolutions below.
_EXAMPLE = 16


class LiteRt(Backend):
    """`model.tflite`, run by LiteRT with XNNPACK.

    Sizes are fixed when the file is written: `batch` samples a call; `load` runs more of them in
    parts. Values are s8. A layer is computed in integers where its result is rounded, too; other
    layers, and weights that are stored alone, become floats when the file is written.
    """

    name: ClassVar[str] = "litert"
    runtime: ClassVar[str] = "LiteRT"
    suffix: ClassVar[str] = "model.tflite"

    batch: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Samples of a call."""

    @classmethod
    def missing(cls) -> str:
        """The packages: one converts, one runs."""
        lacks = [name for name in _PACKAGES if find_spec(name) is None]
        if not lacks:
            return ""
        names = " and ".join(name.replace("_", "-") for name in lacks)
        return f"the package {names}: pip install 'compressc[litert]' (it brings JAX)"

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        """Write `model.tflite` for `batch` samples a call.

        Raises:
            CompresscError: CC503 where the packages are missing, a size other than the batch is
                open, or the converter cannot express the graph.
            OSError: where the disk is full.
        """
        if self.missing():
            raise unwritable(self.runtime, RuntimeError(self.missing()))
        for op in graph.inputs:
            if not all(isinstance(size, int) for size in graph.type_of(op.name).shape[1:]):
                reason = f"sizes of a file are fixed, and %{op.name} has an open one"
                raise unwritable(self.runtime, RuntimeError(reason))
        module = export_graph(graph, enough(example, _EXAMPLE)).module()
        rounds = rounds_values(graph)
        try:
            with quiet(), torch.no_grad():
                signed_values(module)
                _float_weights(module, rounded=rounds)
                converted = _converted(module, enough(example, self.batch), integers=rounds)
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / self.suffix
                converted.export(str(path))
        except OSError:
            raise
        except Exception as error:  # each of its passes raises types of its own
            raise unwritable(self.runtime, error) from error
        return path

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The file as a function; samples go through in parts, and the last part is filled up.

        Raises:
            CompresscError: CC504 where the package is missing, or refuses the file.
        """
        interpreter = self._interpreter(path, threads)
        (name,) = interpreter.get_signature_list()
        call = interpreter.get_signature_runner(name)
        inputs, outputs = (
            sorted(details.items(), key=_place)
            for details in (call.get_input_details(), call.get_output_details())
        )
        most = int(inputs[0][1]["shape"][0])

        def part(given: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
            filled = enough(given, most)
            feed = {key: _stored(x, of) for (key, of), x in zip(inputs, filled, strict=True)}
            found = call(**feed)
            return [_value(found[key], of)[: len(given[0])] for key, of in outputs]

        def run(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            parts = [part(p) for p in zip(*(torch.split(x, most) for x in given), strict=True)]
            return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))

        return run

    def int8_layers(self, path: Path, graph: Graph) -> Int8Layers:
        """From the nodes that the interpreter is left with: which are given integers alone."""
        ran = holders_of_weights(graph, _integer_weights(self._interpreter(path, 1)))
        return int8_layers(graph, ran, self.runtime, rounds_results=True)

    def _interpreter(self, path: Path, threads: int) -> Any:
        """Ready to run: kernels are chosen."""
        try:
            with quiet():
                reader = importlib.import_module("ai_edge_litert.interpreter")
                interpreter = reader.Interpreter(model_path=str(path), num_threads=threads)
                interpreter.allocate_tensors()
        except Exception as error:  # as in emit
            raise refused(self.runtime, path, error) from error
        return interpreter


def _integer_weights(interpreter: Any) -> Iterator[Any]:
    """The s8 tensors of the file that a layer computes with, where it takes and gives s8 values."""
    types = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    nodes = interpreter._get_ops_details()
    computed = {int(place) for node in nodes for place in node["outputs"]}
    given = {tensor["index"] for tensor in interpreter.get_input_details()}
    for node in nodes:
        around = [int(place) for place in (*node["inputs"], *node["outputs"]) if place >= 0]
        if node["op_name"] not in _COMPUTING or any(types[p] is np.float32 for p in around):
            continue
        for place in around:
            if types[place] is np.int8 and place not in computed | given:
                yield interpreter.get_tensor(place)


def _place(item: tuple[str, Any]) -> int:
    """`args_1` and `output_0` end in their place."""
    return int(item[0].rpartition("_")[2])


def _converted(
    module: torch.fx.GraphModule, example: tuple[torch.Tensor, ...], *, integers: bool
) -> Any:
    converter = importlib.import_module("litert_torch")
    config = None
    if integers:  # says that pairs of quantize and dequantize become integer kernels
        quantizer = importlib.import_module("litert_torch.quantize.pt2e_quantizer")
        form = quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
        asked = importlib.import_module("litert_torch.quantize.quant_config").QuantConfig
        config = asked(pt2e_quantizer=quantizer.PT2EQuantizer().set_global(form))
    return converter.convert(module, example, quant_config=config)


def _float_weights(module: torch.fx.GraphModule, *, rounded: bool) -> None:
    """Give weights as floats; with the rounding behind them that the converter knows them by.

    It takes no stored integers. Where values are rounded it folds the two into integers again.
    """
    ops = torch.ops.quantized_decomposed
    for node in dequantized_weights(module):
        floats = stored_floats(module, node)
        if not rounded:
            node.replace_all_uses_with(floats)
            continue
        _, scale, zero, *form = node.args
        with module.graph.inserting_before(node):
            again = (floats, scale, zero, *form)
            quantized = module.graph.call_function(ops.quantize_per_channel.default, again)
        node.args = (quantized, scale, zero, *form)
    drop_unused(module)


def _stored(value: torch.Tensor, details: Mapping[str, Any]) -> Any:
    """An input as the file takes it: where it is rounded at once, as integers."""
    array, (scale, zero) = value.detach().contiguous().numpy(), details["quantization"]
    if details["dtype"] is not np.int8 or not scale:
        return array
    return np.clip(np.rint(array / np.float32(scale)) + zero, -128, 127).astype(np.int8)


def _value(array: Any, details: Mapping[str, Any]) -> torch.Tensor:
    """An output as floats, where it is stored as integers."""
    scale, zero = details["quantization"]
    if details["dtype"] is np.int8 and scale:
        array = (array.astype(np.float32) - zero) * np.float32(scale)
    return torch.from_numpy(np.array(array))
