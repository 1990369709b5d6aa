"""The `sparsify` pass: zeros in the weights, in any place or a number in every group."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.ir import LAYERS, PRODUCTS, Graph, Op
from compressc.pipeline import Context, Pass
from compressc.training import reestimate_behind
from compressc_prune.measured import Measured, measure
from compressc_prune.members import along
from compressc_prune.protected import Patterns, matching
from compressc_prune.zeroing import Pattern, in_groups, smallest

#: As hard as `gzip` tries by itself.
LEVEL = 6


class Sparsify(Pass):
    """Set the least important weights of linear layers and convolutions to zero.

    No shape changes: files keep their size and runtimes their pace, until what stores or multiplies
    them knows sparse matrices; an archive of the file does get smaller, and a note says by how
    much. `distill` behind it trains what is left: zeros stay zeros.

    Sources: Han et al. 2015 (magnitude), Sun et al. 2024 (wanda, arXiv 2306.11695), Mishra et al.
    2021 (N:M, arXiv 2104.08378). Cost: accuracy, until `distill` recovers it.
    """

    name: ClassVar[str] = "sparsify"
    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    reads_target: ClassVar[frozenset[str]] = frozenset()
    before: ClassVar[Mapping[str, str]] = {
        "distill": "distillation recovers what zeros lose",
        "quant": "int8 weights cannot be sorted by size without calibrating again",
    }
    after: ClassVar[Mapping[str, str]] = {
        "student": "a student is made of whole weights",
        "prune": "zeros are no reason to cut a channel",
        "lowrank": "factors of a sparse matrix are not sparse",
    }

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the weights of each layer that becomes zero."""
    pattern: str = ""
    """`2:4` keeps the two most important of every four neighbouring inputs, as some GPUs multiply
    them at twice the pace; in place of `share`."""
    importance: Literal["magnitude", "wanda"] = "magnitude"
    """`magnitude`: the smallest weights of a layer go. `wanda`: of each output, those with the
    smallest weight times size of its input on calibration data."""
    keep: Patterns = ()
    """Layers that are left alone, by patterns of names: `keep="head.*"`, several with commas."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        """Options that contradict each other are an error before any work starts."""
        if self.pattern and "share" in self.model_fields_set:
            raise ValueError("share and pattern: give one of them")
        return self

    @field_validator("pattern")
    @classmethod
    def _readable(cls, text: str) -> str:
        """A pattern that cannot be read is an error before any work starts."""
        if text:
            Pattern.parse(text)
        return text

    @property
    def _groups(self) -> Pattern | None:
        return Pattern.parse(self.pattern) if self.pattern else None

    @property
    def requirements(self) -> frozenset[str]:
        """Sizes of inputs are measured on data."""
        return frozenset({"data"}) if self.importance == "wanda" else self.needs

    @torch.no_grad()
    def run(self, graph: Graph, ctx: Context) -> None:
        """Zero layer by layer; every layer with parameters left alone gets a note.

        Raises:
            CompresscError: CC102 where `keep` matches no layer.
        """
        verdicts = self.coverage(graph, ctx)
        chosen = [op for op in graph if verdicts[op.name].outcome == "does"]
        measured = measure(graph, {"inputs"} if self.importance == "wanda" else (), ctx)
        packed = [0, 0]
        for op in chosen:
            layer: Any = op.layer
            zeros = self._zeros(op, measured)
            made = layer.weight.masked_fill(zeros, 0.0)
            for i, weight in enumerate((layer.weight, made)):
                stored = weight.detach().cpu().contiguous().view(torch.uint8).numpy()
                packed[i] += len(zlib.compress(stored, LEVEL))
            layer.weight = nn.Parameter(made, layer.weight.requires_grad)
            graph.set_layer(op.name, layer)
            ctx.note(op.name, f"{int((made == 0).sum())} of {made.numel()} weights are zero")
        for op in graph:
            verdict = verdicts[op.name]
            if verdict.outcome != "does" and parameters_of(op):
                ctx.note(op.name, f"skipped: {verdict.text}")
        if not chosen:
            return
        before, after = packed
        ctx.note(
            graph.name,
            "zeros are stored and multiplied as other numbers are: size of files and time stay; "
            f"in an archive these weights take {after / before:.0%} of what they took",
        )
        reestimate_behind(graph, [op.name for op in chosen], ctx)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By kind, shape and name."""
        kept = matching(graph, self.keep, self.name)
        return {op.name: self._verdict(graph, op, kept) for op in graph}

    def _verdict(self, graph: Graph, op: Op, kept: Mapping[str, str]) -> Verdict:
        if op.role not in PRODUCTS:
            return Verdict.idle("no linear layer and no convolution")
        layer: Any = op.layer
        weight: Tensor = layer.weight
        if op.name in kept:
            return Verdict.cannot(f"keep={kept[op.name]} protects it")
        if not weight.is_floating_point():
            return Verdict.cannot(f"its weights are {weight.dtype}")
        if len(graph.holders(weight)) > 1:
            return Verdict.cannot("another layer has the same weight")
        inputs = weight.shape[_inputs(op)]
        if self._groups and inputs % self._groups.of:
            return Verdict.cannot(f"{inputs} inputs are no groups as in {self.pattern}")
        return Verdict.does(f"zeroes {self.pattern or format(self.share, '.0%')}", "weight")

    def _zeros(self, op: Op, measured: Measured) -> Tensor:
        """Where the weight becomes zero."""
        layer: Any = op.layer
        score = layer.weight.detach().abs().float()
        sizes = measured.inputs.get(op.name)
        if sizes is not None:
            score = score * along(sizes, score, _inputs(op))
        if self._groups:
            return in_groups(score, self._groups, _inputs(op))
        return smallest(score, self.share, each_output=sizes is not None)


def _inputs(op: Op) -> int:
    """The dimension of a weight that inputs count along."""
    return LAYERS[op.kind].weight.index("in")
