"""OpenVINO IR (`.xml` and `.bin`), run by OpenVINO on the CPU."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch

from compressc.backend.backend import Backend, Runner
from compressc.backend.executed import int8_layers
from compressc.backend.exporting import unwritable
from compressc.backend.file_record import Int8Layers
from compressc.backend.onnx import export_onnx, refused
from compressc.backend.onnx_shared import turn_dequantized
from compressc.ir import Graph
from compressc.quiet import quiet

_CHUNK = bytes(1 << 20)
#: Which input of a `DFT` names its axis.
_AXIS = 2

#: What a node of the executed graph tells of itself, and the types that compute a layer.
_TOLD = ("layerType", "originalLayersNames")
_COMPUTING = frozenset(("Convolution", "Deconvolution", "FullyConnected", "MatMul"))


#: Where a processor has VNNI, OpenVINO would round what a layer of packed weights is given to int8,
#: in groups of 32 of it: an error of 0.5 % that nobody asked for. 0 leaves it as it is.
_ROUNDED_INPUTS = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


class OpenVino(Backend):
    """`openvino/model.xml` and `model.bin`; weights stay int8, or f32 in a float graph.

    It is converted from ONNX: OpenVINO's reader of torch programs cannot read int8 weights
    (2026.4 loses the scale of a per-channel dequantize), its ONNX reader keeps them.
    """

    name: ClassVar[str] = "openvino"
    runtime: ClassVar[str] = "OpenVINO"
    suffix: ClassVar[str] = "openvino/model.xml"
    overflows: ClassVar[bool] = True

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        """Write `openvino/model.xml` and `.bin`; the batch stays open.

        Raises:
            CompresscError: CC503 where the ONNX exporter or OpenVINO's converter fails.
            OSError: where the disk is full.
        """
        with quiet():
            import openvino

        exported = export_onnx(graph, example)
        size = exported.bytes
        _name_axes(exported.model.graph)
        turn_dequantized(exported.model.graph)
        path = folder / self.suffix
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch, quiet():
            source = Path(scratch) / "model.onnx"
            exported.save_apart(source)  # OpenVINO maps such weights
            del exported
            try:
                converted = openvino.convert_model(source)
                converted.set_rt_info("0", ["runtime_options", _ROUNDED_INPUTS])
                # f16 would be a second, unasked compression of what the passes left in float
                openvino.save_model(converted, path, compress_to_fp16=False)
            except Exception as error:  # openvino raises RuntimeError and its own types
                _require_room(path.parent, size)
                raise unwritable("OpenVINO", error) from error
        _strip_indentation(path)
        return path

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The file as a function on the CPU device, in f32 (and int8 where the file says so).

        OpenVINO would take bf16 for f32 on CPUs that have it, which is another accuracy.

        Raises:
            CompresscError: CC504 where OpenVINO refuses the file.
        """
        compiled = self._compile(path, threads)
        request = compiled.create_infer_request()
        count = len(compiled.outputs)

        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            # by position: conversion may drop a name that several values share
            feed = {i: tensor.detach().numpy() for i, tensor in enumerate(inputs)}
            result = request.infer(feed, share_inputs=True)
            return tuple(torch.from_numpy(result[i].copy()) for i in range(count))

        return run

    def int8_layers(self, path: Path, graph: Graph) -> Int8Layers:
        """From the graph that OpenVINO executes: what each node is given, and its origin.

        A node's own precision is that of its weight: stored integers that are multiplied as floats
        have `i8`, too (2026.4).
        """
        ran: set[str] = set()
        for op in self._compile(path, 1).get_runtime_model().get_ops():
            info = op.get_rt_info()
            told = {key: info[key].astype(str) for key in _TOLD if key in info}
            if told.get("layerType") in _COMPUTING and _reads_integers(op):
                origins = [op.get_friendly_name(), *told.get("originalLayersNames", "").split(",")]
                ran.update(name.split("/")[0] for name in origins)
        return int8_layers(graph, ran, self.runtime)

    def _compile(self, path: Path, threads: int) -> Any:
        with quiet():
            import openvino

        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        try:
            return openvino.Core().compile_model(str(path), "CPU", options)
        except Exception as error:  # as above
            raise refused(self.runtime, path, error) from error

    def files(self, path: Path) -> list[Path]:
        """The structure and the weights."""
        return [path, path.with_suffix(".bin")]


def _reads_integers(node: Any) -> bool:
    return node.input(0).get_element_type().get_type_name() in ("u8", "i8")


def _name_axes(graph: Any) -> None:
    """OpenVINO 2026.4 looks for the axis of a Fourier transform in the attribute of old opsets."""
    from onnx import helper, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DFT" and len(node.input) > _AXIS and node.input[_AXIS] in stored:
            axis = int(numpy_helper.to_array(stored[node.input[_AXIS]]))
            node.attribute.append(helper.make_attribute("axis", axis))


def _require_room(folder: Path, size: int) -> None:
    """Raise the OSError of a full disk, which OpenVINO's writer calls an `iostream error`."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(0, size, len(_CHUNK)):
            if file.write(_CHUNK) < len(_CHUNK):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _strip_indentation(path: Path) -> None:
    """A third of the .xml is blanks between tags, and the .xml is a third of a small int8 model."""
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r">\s+<", "><", text), encoding="utf-8")
