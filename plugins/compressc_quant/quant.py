"""The pass `quant`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from compressc.errors import CompresscError
from compressc.ir import Graph, retype
from compressc.ir.quantized import QUANTIZED
from compressc.pipeline import Context, Pass, Samples
from compressc_quant.carry import carry_over
from compressc_quant.observing import Settings, observe
from compressc_quant.tracing import trace

#: Operations whose presence makes a model a transformer for the rules below.
_ATTENTION = ("aten.scaled_dot_product_attention", "aten.softmax.int", "aten._softmax")

#: Why an op without an int8 kernel stays in float.
_FLOAT = {
    "batch_norm1d": "it is not folded into the layer before it; run simplify first",
    "batch_norm2d": "it is not folded into the layer before it; run simplify first",
    "batch_norm3d": "it is not folded into the layer before it; run simplify first",
    "layer_norm": "it has no int8 kernel in ONNX Runtime or OpenVINO",
    "rms_norm": "it has no int8 kernel in ONNX Runtime or OpenVINO",
    "group_norm": "it has no int8 kernel in ONNX Runtime or OpenVINO",
    "gelu": "it has no int8 kernel in ONNX Runtime or OpenVINO",
}


class Quant(Pass):
    """Store weights as int8 and let layers compute on int8 inputs, without training.

    nncf decides, from what it observes on calibration data, which values are quantized and in which
    range: weights s8 with a scale per output channel, activations u8 (s8 inside attention) with one
    scale and zero point. Legal for trained float graphs; the graph keeps its names and lineage.
    Cost: rounding, mostly below 0.5 % of accuracy; see the report. The model runs faster where a
    runtime has int8 kernels (ONNX Runtime, OpenVINO); PyTorch itself emulates them in float.
    """

    name: ClassVar[str] = "quant"
    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    after: ClassVar[Mapping[str, str]] = {
        "prune": "channels cannot be cut once weights are int8",
        "lowrank": "an int8 weight cannot be factorized",
        "distill": "int8 weights cannot be trained",
    }
    prelude: ClassVar[tuple[str, ...]] = ("simplify",)  # batch norms must be folded first

    bits: Literal[8] = 8
    """Width of weights and activations: 8 is the width that every runtime has kernels for."""

    samples: int = Field(256, ge=1, le=100_000)
    """Calibration samples to observe."""

    batch: int = Field(32, ge=1, le=4096)
    """Calibration samples observed at once; a range is the mean over batches of the extremes in
    one, so larger batches clip less."""

    preset: Literal["mixed", "performance"] = "mixed"
    """`mixed`: activations have a zero point (more accurate). `performance`: none."""

    model_type: Literal["auto", "convolutional", "transformer"] = "auto"
    """Which rules to quantize by. `transformer` keeps attention's softmax and values and the
    residual additions in float; `auto` takes it where the graph has attention."""

    smooth: bool = False
    """In transformers, move outlier channels of activations into the weights (SmoothQuant,
    arXiv 2211.10438). Off: it costs a multiplication before each layer whose input is not a norm's,
    which OpenVINO 2026.4 then computes wrongly (the proof refuses the file)."""

    bias_correction: bool = True
    """Add the mean error of each layer's rounding back through its bias."""

    def run(self, graph: Graph, ctx: Context) -> None:
        """Quantize in place.

        Raises:
            CompresscError: CC105 without data, CC601 where nncf fails.
        """
        batches = self._batches(ctx.require_data(self.name).calibration)
        transformer = self.model_type == "transformer"
        if self.model_type == "auto":
            transformer = any(op.kind in _ATTENTION for op in graph)
        settings = Settings(
            symmetric=self.preset == "performance",
            transformer=transformer,
            smooth=self.smooth,
            bias_correction=self.bias_correction,
        )
        ctx.progress("calibrating", 0, len(batches))
        traced = trace(graph, batches[0])
        carry_over(graph, traced, observe(traced.module, batches, settings), ctx.note)
        retype(graph)
        ctx.progress("calibrating", len(batches), len(batches))
        _report(graph, ctx, transformer)

    def _batches(self, calibration: Samples) -> list[tuple[torch.Tensor, ...]]:
        """Batches of one size: the traced graph has that size in it."""
        count = min(self.samples, len(calibration))
        if not count:
            raise CompresscError("CC105", "pass 'quant' needs calibration samples", got="none")
        size = min(self.batch, count)
        starts = range(0, count - count % size, size)
        return [tuple(x[i : i + size] for x in calibration.inputs) for i in starts]


def _report(graph: Graph, ctx: Context, transformer: bool) -> None:
    """Say of each layer that is still in float why it is."""
    rules = "transformers" if transformer else "convolutional networks"
    for op in graph:
        if op.kind in QUANTIZED:
            ctx.note(op.name, f"skipped: nncf's rules for {rules} leave it in float")
        elif op.kind in _FLOAT:
            ctx.note(op.name, f"skipped: {_FLOAT[op.kind]}")
        elif op.kind in _ATTENTION:
            ctx.note(op.name, "skipped: softmax and the product with the values stay in float")
