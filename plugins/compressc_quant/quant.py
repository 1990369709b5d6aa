"""The pass `quant`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.analysis.stored import bytes_by_type, types_text
from compressc.collecting import freed_at_once
from compressc.errors import CompresscError
from compressc.ir import Graph, Op, random_inputs
from compressc.pipeline import Context, Pass, Store
from compressc_quant.calibrating import calibration, tell_ranges
from compressc_quant.casting import TYPES, cast, cast_verdicts
from compressc_quant.distance import distance, distance_text, outputs_of
from compressc_quant.dynamic import (
    dynamic_verdicts,
    quantize_dynamically,
    recurrent_notes,
    why_left,
)
from compressc_quant.learning import Course, learn, objectives
from compressc_quant.losing import Losses, held_out
from compressc_quant.mixed import Search, kept, tell, why
from compressc_quant.observing import Settings
from compressc_quant.restoring import Held, held_layers
from compressc_quant.static import Finish, Made, Static
from compressc_quant.verdicts import ATTENTION, stated, verdicts, why_float
from compressc_quant.weights import (
    Method,
    WeightOptions,
    quantize_weights,
    round_anew,
    round_by_data,
    weight_verdicts,
    why_whole,
)

#: Samples that coverage is asked with: nncf's decisions do not depend on them, ranges would.
_FEW = 4
#: Samples that the quantized graph is compared with the float one on.
_COMPARED = 8
#: Outputs that are further off, as a share of them, are worth rounding weights by what layers are
#: given: nearest leaves most models well within it.
_FAR = 0.05
#: Whether weights have half their range -> what the report says of it.
_RANGES = {
    True: "weights within -64..64 (half range): int8 sums cannot overflow on any processor",
    False: "weights within -127..127 (full range): x86 needs VNNI to compute the files rightly",
}
_BYTE = 8
#: Option -> the modes that it says anything in.
_MODES: dict[str, tuple[str, ...]] = {
    "bits": ("static", "weights", "dynamic"),
    "group": ("static", "weights"),
    "method": ("static", "weights"),
    "to": ("cast",),
    "samples": ("static", "weights"),
    "batch": ("static", "weights"),
    "preset": ("static",),
    "model_type": ("static",),
    "smooth": ("static",),
    "bias_correction": ("static",),
    "range": ("static", "dynamic"),
    "max_drop": ("static", "weights", "dynamic"),
    "held_out": ("static", "weights", "dynamic"),
    "train": ("static", "weights", "dynamic"),
    "steps": ("static", "weights", "dynamic"),
    "lr": ("static", "weights", "dynamic"),
    "features": ("static", "weights", "dynamic"),
}


class Quant(Pass):
    """Store numbers in fewer bits, without training: weights, and what layers compute on.

    `mode=static`: weights and activations as int8. nncf decides, from what it observes on
    calibration data, which values are quantized and in which
    range: weights s8 with a scale per output channel, activations u8 (s8 inside attention) with one
    scale and zero point. Legal for trained float graphs; the graph keeps its names and lineage.
    Cost: rounding, mostly below 0.5 % of accuracy; see the report. The model runs faster where a
    runtime has int8 kernels (ONNX Runtime, OpenVINO); PyTorch itself emulates them in float.
    `mode=weights`: weights and tables as integers of 8 or 4 bits, activations as floats: the
    smallest file. `mode=dynamic`: int8 weights, and linear layers and LSTMs round what they are
    given in a range that is found at run time: for recurrent models, and for language models, whose
    activations no fixed range holds.
    `mode=cast`: every float in 16 bits.
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

    mode: Literal["static", "weights", "dynamic", "cast"] = "static"
    """`static`: weights and activations as int8, in ranges observed on data. `weights`: weights
    alone. `dynamic`: int8 weights, and ranges of activations that are found at run time. `cast`:
    floats of 16 bits."""

    bits: Literal[8, 4] = 8
    """Width of weights; of activations, where they are rounded, it is 8, the width that every
    runtime has kernels for. 4 is for `mode=weights` and `static`."""

    group: int | None = Field(None, ge=16, le=4096)
    """So many weights of an output share a scale (`mode=weights`, and `static` at 4 bits). Not
    given: 32 at 4 bits, and at 8 bits all of an output. It is halved where it does not divide an
    output's weights."""

    method: Method | Literal["auto"] = "auto"
    """How weights are rounded. `rtn`: each to nearest, in the range that loses least. `gptq`:
    errors are taken out through weights that are not rounded yet, so that what layers put out on
    calibration data is kept (arXiv 2210.17323). `awq` (`mode=weights`): columns that large
    activations meet are scaled up before (arXiv 2306.00978). `auto`: `rtn`; in `mode=static` then
    `gptq` where outputs are off by more than 5 %, or more than `max_drop` is lost."""

    to: Literal["bf16", "f16"] = "bf16"
    """The type of `mode=cast`: `bf16` has the range of f32 and 8 bits of precision, `f16` 11 bits,
    and ends at 65504."""

    samples: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    """Calibration samples to observe: the first so many. `auto`: spread over all of them, until two
    halves agree on the ranges, 1024 at most."""

    batch: int = Field(32, ge=1, le=4096)
    """Calibration samples in memory at once. A range is the mean over lots of 32 samples of the
    extremes in each, however many go through at once."""

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

    max_drop: float | None = Field(None, ge=0, le=1)
    """How much of the score may be lost by rounding: the score by labels in points, without labels
    the share of what the teacher's outputs say. Where more is lost, the ops that cost most stay in
    float, as few as are found; which ones, and what each costs, is said. Not given: nothing is
    measured."""

    train: bool | Literal["auto"] = "auto"
    """Train what is rounded against the teacher's answers, weights, scales, biases and norms, while
    it is rounded. `auto`: where more than `max_drop` is lost without."""

    steps: int = Field(400, ge=1, le=1_000_000)
    """Steps of that training, of 32 samples each."""

    lr: float | Literal["auto"] = Field("auto", gt=0, le=1)
    """Peak learning rate of that training. `auto`: 0.003 of a typical weight."""

    features: float = Field(0.0, ge=0)
    """Weight, in that training, of inner values at four ends of blocks beside the answers. Measured
    on three models it makes no difference (docs/howto-quant.md)."""

    held_out: int = Field(512, ge=16, le=100_000)
    """Samples that `max_drop` is measured on: of the validation part, else of a tenth to a fifth of
    the training part."""

    @model_validator(mode="after")
    def _one_mode(self) -> Quant:
        for name in sorted(self.model_fields_set & _MODES.keys()):
            if self.mode not in _MODES[name]:
                modes = " or ".join(f"mode={mode}" for mode in _MODES[name])
                raise ValueError(f"'{name}' is for {modes}, and this is mode={self.mode}")
        narrow = self.bits < _BYTE
        if self.mode == "dynamic" and narrow:
            raise ValueError(
                "'bits=4' is for mode=static or mode=weights, and this is mode=dynamic"
            )
        if self.mode == "static" and self.group is not None and not narrow:
            raise ValueError("'group' is for bits=4 or mode=weights, and this is mode=static")
        if self.smooth and narrow:
            raise ValueError("'bits=4' rounds layers anew that 'smooth' has changed: give one")
        if self.mode == "static" and self.method == "awq":
            raise ValueError("'method=awq' is for mode=weights, and this is mode=static")
        if self.smooth and self.method == "gptq":
            raise ValueError("'method=gptq' rounds layers anew that 'smooth' has changed: give one")
        if self.smooth and self.max_drop is not None:
            raise ValueError(
                "'max_drop' puts layers back, and 'smooth' has changed them: one of them"
            )
        return self

    def uses(self) -> tuple[Any, ...]:
        """The objectives, where it may train: another one of the same name gives another result."""
        trains = self.train is True or (self.train == "auto" and self.max_drop is not None)
        return objectives(self.features) if trains else ()

    @property
    def requirements(self) -> frozenset[str]:
        """Data, where ranges are observed or inputs are looked at."""
        chooses = self.max_drop is not None or self.train is True
        return self.needs if self._observes or chooses else frozenset()

    @property
    def _observes(self) -> bool:
        """Whether calibration data are looked at."""
        looks = self.method in ("gptq", "awq")
        return self.mode == "static" or (self.mode == "weights" and looks)

    @property
    def _may_improve(self) -> bool:
        """Whether weights are rounded by what layers are given where nearest loses too much."""
        return self.mode == "static" and self.method == "auto" and not self.smooth

    @property
    def target_parts(self) -> frozenset[str]:
        """The instruction set, where integers are multiplied."""
        return self.reads_target if self.mode in _MODES["range"] else frozenset()

    def run(self, graph: Graph, ctx: Context) -> None:
        """Quantize in place.

        Raises:
            CompresscError: CC105 without data where they are needed, CC601 where nncf fails.
        """
        before, losses = held_layers(graph), self._losses(graph, ctx)
        work = self._static if self.mode == "static" else self._without_ranges
        made = work(graph, ctx)
        told, finish = dict(made.told), made.finish
        if self._may_improve and (made.far or (losses is not None and self._misses(graph, losses))):
            made.improve(graph)
        begins = self.train == "auto" and losses is not None and self._misses(graph, losses)
        if self.train is True or begins:
            rate = None if self.lr == "auto" else self.lr
            course = Course(self.steps, rate, self.features)
            learn(graph, before, held_out(ctx, self.name, self.held_out), course, ctx)
            finish = Made().finish
        if losses is not None:
            told |= self._keep_score(graph, before, losses, finish, ctx)
        for op in graph:
            reason = self._why_float(graph, op, told)
            if reason:
                ctx.note(op.name, f"skipped: {reason}")

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """Where ranges are observed, by letting nncf quantize a copy on a few samples, random ones
        where there are no data: it decides by the graph alone, and a rule of ours about it would be
        a second, wrong one. In other modes by the functions that `run` decides by. What `max_drop`
        keeps is found on a copy, as the pass finds it, where there are data.
        """
        planned = self._planned(graph, ctx)
        if self.max_drop is None or ctx.data is None:
            return planned
        seen = replace(ctx, notes=[], records={}, store=Store())
        try:
            self.model_copy(update={"train": False}).run(graph.copy(), seen)
        except CompresscError as error:
            return {op.name: Verdict.cannot(f"quant would fail: {error}") for op in graph}
        return kept(planned, seen, trains=self.train is not False)

    def _planned(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """What would be done without a look at what it costs."""
        if self.mode == "cast":
            return cast_verdicts(graph, self.to)
        if self.mode == "dynamic":
            return dynamic_verdicts(graph)
        if self.mode == "weights":
            return weight_verdicts(graph, self._weights())
        after = graph.copy()
        inputs = random_inputs(graph, ctx.seed, _FEW)
        if ctx.data is not None:
            inputs = ctx.data.calibration.take(_FEW).inputs
        try:
            few = [tuple(x[:_FEW] for x in inputs)]
            half = self._half_range(ctx)
            told, _, _ = self._plan(graph, bias_correction=False, half_range=half).apply(after, few)
        except CompresscError as error:
            return {op.name: Verdict.cannot(f"quant would fail: {error}") for op in graph}
        return verdicts(graph, after, self._transformer(graph), told)

    def _losses(self, graph: Graph, ctx: Context) -> Losses | None:
        """What measures how much of the score is lost."""
        if self.max_drop is None:
            return None
        return Losses(graph, ctx, held_out(ctx, self.name, self.held_out)[1])

    def _misses(self, graph: Graph, losses: Losses) -> bool:
        """Whether more is lost than may be."""
        assert self.max_drop is not None
        return losses.drop(graph) > self.max_drop

    def _keep_score(
        self,
        graph: Graph,
        before: Mapping[str, Held],
        losses: Losses,
        finish: Finish,
        ctx: Context,
    ) -> dict[str, str]:
        """Put what costs too much back to float; op -> why."""
        assert self.max_drop is not None
        eight = WeightOptions(_BYTE, None, "rtn")
        widen = partial(_widen, options=eight, before=before) if self.bits < _BYTE else None
        search = Search(graph, before, losses, self.max_drop, ctx, finish, widen)
        found = search.run()
        if found.floats or found.wider:
            search.apply(graph, list(found.floats), list(found.wider))
        tell(found, losses, self.max_drop, ctx)
        return {name: why(cost) for name, cost in found.floats.items()}

    def _why_float(self, graph: Graph, op: Op, told: Mapping[str, str]) -> str:
        """Why an op that could have been rounded is not; nothing for those that are."""
        stays = bool(parameters_of(op)) and op.weight_form is None
        if op.name in told:
            return told[op.name]
        if self.mode == "static" and (stays or stated(op)):
            return why_float(op, self._transformer(graph), graph)
        if self.mode in ("weights", "dynamic") and stays:
            return (why_left if self.mode == "dynamic" else why_whole)(op, graph)
        return ""

    @freed_at_once()  # nncf makes one copy after the other of each weight
    def _static(self, graph: Graph, ctx: Context) -> Made:
        """Ranges are observed."""
        samples = ctx.require_data(self.name).calibration
        batches: Sequence[tuple[torch.Tensor, ...]]
        batches = found = calibration(samples, self.samples, self.batch)
        if self.smooth:  # nncf runs all of them through a graph of fixed sizes
            batches = found.of_one_length()
        ctx.progress("calibrating", 0, len(batches))
        half_range = self._half_range(ctx)
        few = tuple(x[:_COMPARED] for x in batches[0])
        want = outputs_of(graph, few)
        work = self._plan(graph, bias_correction=self.bias_correction, half_range=half_range)
        before = held_layers(graph)
        told, finish, ranges = work.apply(graph, batches, partial(ctx.progress, "calibrating"))
        ctx.progress("calibrating", len(batches), len(batches))
        tell_ranges(ranges, ctx)

        got = outputs_of(graph, few)

        def improve(graph: Graph) -> None:
            nearest = held_layers(graph)
            names = round_by_data(graph, before, batches, ctx)
            finish(graph)
            now = outputs_of(graph, few)
            worse = self.method == "auto" and distance(now, want) > distance(got, want)
            if worse:
                for name in names:
                    graph.set_layer(name, nearest[name].layer, nearest[name].kind)
                finish(graph)
            left = ", which is further off: they stay rounded to nearest" if worse else ""
            what = f"weights of {len(names)} layers rounded by what they are given"
            ctx.note("", f"{what}: {distance_text(now, want)}{left}")

        ctx.note("", f"{_RANGES[half_range]}; {distance_text(got, want)}")
        if self.method == "gptq":
            improve(graph)
        return Made(told, finish, improve, far=distance(got, want) > _FAR)

    def _without_ranges(self, graph: Graph, ctx: Context) -> Made:
        """The modes that observe no ranges."""
        data = ctx.data.calibration.take(_COMPARED).inputs if ctx.data is not None else ()
        few = data or random_inputs(graph, ctx.seed, _COMPARED)
        want = outputs_of(graph, few)
        if self.mode == "cast":
            cast(graph, TYPES[self.to])
        elif self.mode == "dynamic":
            half = self._half_range(ctx)
            quantize_dynamically(graph, half_range=half)
            ctx.note("", _RANGES[half])
        else:
            batches: Sequence[tuple[torch.Tensor, ...]] = []
            if self._observes:
                source = ctx.require_data(self.name).calibration
                batches = calibration(source, self.samples, self.batch)
            quantize_weights(graph, self._weights(), batches, ctx)
        for name, text in recurrent_notes(graph):
            ctx.note(name, text)
        held = types_text(bytes_by_type(graph))
        ctx.note("", f"weights are {held}; {distance_text(outputs_of(graph, few), want)}")
        return Made()

    def _weights(self) -> WeightOptions:
        return WeightOptions(self.bits, self.group, "rtn" if self.method == "auto" else self.method)

    def _half_range(self, ctx: Context) -> bool:
        return ctx.target.saturates_int8 if self.range == "auto" else self.range == "half"

    def _plan(self, graph: Graph, *, bias_correction: bool, half_range: bool) -> Static:
        """How nncf's decisions are made and carried over."""
        settings = Settings(
            symmetric=self.preset == "performance",
            transformer=self._transformer(graph),
            smooth=self.smooth,
            half_range=half_range,
        )
        narrow = self._weights() if self.bits < _BYTE else None
        return Static(settings, bias_correction, narrow)

    def _transformer(self, graph: Graph) -> bool:
        if self.model_type == "auto":
            return any(op.kind in ATTENTION for op in graph)
        return self.model_type == "transformer"


def _widen(
    graph: Graph, names: Sequence[str], options: WeightOptions, before: Mapping[str, Held]
) -> None:
    """Give ops weights of other bits; those that hold none stay as they are."""
    round_anew(graph, options, before, names)
