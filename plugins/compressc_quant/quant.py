"""The pass `quant`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.utils import _pytree as pytree

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.errors import CompresscError
from compressc.ir import Graph, lower, random_inputs, retype
from compressc.measure import fidelity
from compressc.pipeline import Context, Pass, Samples
from compressc_quant.bias import channel_means, correct_biases, some
from compressc_quant.carry import carry_over
from compressc_quant.hiding import computes_floats, unobservable
from compressc_quant.narrowing import quantize_what_can
from compressc_quant.observing import Settings, observe
from compressc_quant.placing import round_joins, round_results
from compressc_quant.tracing import trace
from compressc_quant.verdicts import ATTENTION, stated, verdicts, why_float

#: Samples that coverage is asked with: nncf's decisions do not depend on them, ranges would.
_FEW = 4
#: Samples that the quantized graph is compared with the float one on.
_COMPARED = 8
#: Below it, a warning: 60 degrees off.
_LEAST_COSINE = 0.5
#: Whether weights have half their range -> what the report says of it.
_RANGES = {
    True: "weights within -64..64 (half range): int8 sums cannot overflow on any processor",
    False: "weights within -127..127 (full range): x86 needs VNNI to compute the files rightly",
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
    reads_target: ClassVar[frozenset[str]] = frozenset({"instruction_set"})
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    floats: ClassVar[frozenset[torch.dtype]] = frozenset({torch.float32})
    after: ClassVar[Mapping[str, str]] = {
        "prune": "channels cannot be cut once weights are int8",
        "lowrank": "an int8 weight cannot be factorized",
        "distill": "int8 weights cannot be trained",
    }
    prelude: ClassVar[tuple[str, ...]] = ("simplify",)  # batch norms must be folded first
    libraries: ClassVar[tuple[str, ...]] = ("torchao",)  # nncf needs it without a word

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
    """Take the mean error of each layer's rounding out through its bias (arXiv 1906.04721, 4.2)."""

    range: Literal["auto", "full", "half"] = "auto"
    """Which of the 255 values weights may take. Processors of x86 without VNNI add products of u8
    and s8 in pairs in 16 bits, which overflow: `half` keeps weights within -64..64, where they
    cannot. `full` is more exact on all others. `auto` takes `half` where the target's instruction
    set is one of those."""

    def run(self, graph: Graph, ctx: Context) -> None:
        """Quantize in place.

        Raises:
            CompresscError: CC105 without data, CC601 where nncf fails.
        """
        batches = self._batches(ctx.require_data(self.name).calibration)
        ctx.progress("calibrating", 0, len(batches))
        half_range = self._half_range(ctx)
        few = tuple(x[:_COMPARED] for x in batches[0])
        want = _outputs(graph, few)
        told = self._quantize(graph, batches, self.bias_correction, half_range)
        ctx.progress("calibrating", len(batches), len(batches))
        ctx.note("", f"{_RANGES[half_range]}; {_loss(_outputs(graph, few), want)}")
        _tell(graph, ctx, self._transformer(graph), told)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By letting nncf quantize a copy on a few samples, random ones where there are no data.

        nncf decides by the graph alone; a rule of ours about it would be a second, wrong one.
        """
        after = graph.copy()
        inputs = random_inputs(graph, ctx.seed, _FEW)
        if ctx.data is not None:
            inputs = ctx.data.calibration.take(_FEW).inputs
        try:
            few = [tuple(x[:_FEW] for x in inputs)]
            told = self._quantize(after, few, False, self._half_range(ctx))
        except CompresscError as error:
            return {op.name: Verdict.cannot(f"quant would fail: {error}") for op in graph}
        return verdicts(graph, after, self._transformer(graph), told)

    def _half_range(self, ctx: Context) -> bool:
        return ctx.target.saturates_int8 if self.range == "auto" else self.range == "half"

    def _quantize(
        self,
        graph: Graph,
        batches: Sequence[tuple[torch.Tensor, ...]],
        bias_correction: bool,
        half_range: bool,
    ) -> dict[str, str]:
        """Quantize in place; op -> why a decision of nncf found no place."""
        settings = Settings(
            symmetric=self.preset == "performance",
            transformer=self._transformer(graph),
            smooth=self.smooth,
            half_range=half_range,
        )
        inputs = some(batches)
        means = channel_means(graph, inputs) if bias_correction else {}
        traced = trace(graph, batches[0])
        module = traced.module
        quantized, hidden = quantize_what_can(
            module,
            unobservable(graph, traced),
            attempt=lambda: observe(module, batches, settings),
            probe=lambda: observe(module, batches[:1], settings),
        )
        nodes = {node.name: node for node in module.graph.nodes}
        told = {
            traced.origin[name]: f"it stays in float: {why}"
            for name, why in hidden.items()
            if why and name in traced.origin and computes_floats(nodes[name], module)
        }
        carry_over(graph, traced, quantized, told.__setitem__)
        round_results(graph, batches, settings.symmetric)
        round_joins(graph)
        if bias_correction:
            correct_biases(graph, means, inputs)
        retype(graph)
        return told

    def _transformer(self, graph: Graph) -> bool:
        if self.model_type == "auto":
            return any(op.kind in ATTENTION for op in graph)
        return self.model_type == "transformer"

    def _batches(self, calibration: Samples) -> list[tuple[torch.Tensor, ...]]:
        """Batches of one size: the traced graph has that size in it."""
        inputs = calibration.take(self.samples).inputs
        count = len(inputs[0])
        if not count:
            raise CompresscError("CC105", "pass 'quant' needs calibration samples", got="none")
        size = min(self.batch, count)
        starts = range(0, count - count % size, size)
        return [tuple(x[i : i + size] for x in inputs) for i in starts]


def _outputs(graph: Graph, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [x for x in pytree.tree_leaves(lower(graph)(*inputs)) if x.dim() and x.numel()]


def _loss(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> str:
    """How far the worst output is from the float graph's: what is lost is said at once."""
    found = [fidelity(*pair) for pair in zip(got, want, strict=True)]
    if not found:
        return "no output to compare"
    worst = max(found, key=lambda f: f.relative_rms_error)
    lost = "; the outputs have little left of the model's" if worst.cosine < _LEAST_COSINE else ""
    return f"outputs off by {worst.relative_rms_error:.1%}, cosine {worst.cosine:.4f}{lost}"


def _tell(graph: Graph, ctx: Context, transformer: bool, told: Mapping[str, str]) -> None:
    """Say of everything that could be int8 and is still in float why it is."""
    for op in graph:
        stays = parameters_of(op) and op.weight_form is None
        if stays or stated(op) or op.name in told:
            ctx.note(op.name, f"skipped: {told.get(op.name) or why_float(op, transformer, graph)}")
