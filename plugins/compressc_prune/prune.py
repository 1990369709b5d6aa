"""The `prune` pass: which widths, how many indices of each, and the cut."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from compressc.analysis import Axis, Coupling, Width, beside, couple
from compressc.analysis.coverage import Verdict, parameters_of
from compressc.editing import cut_widths
from compressc.importance import Importance, parse_importance
from compressc.ir import Graph
from compressc.measure.table import read_table
from compressc.pipeline import Context, Pass
from compressc.training import reestimate_behind
from compressc_prune.allocation import Rounding
from compressc_prune.factors import INSTEAD, cofactors, doubled
from compressc_prune.planning import Plan, Way, Wish
from compressc_prune.protected import Patterns, protected
from compressc_prune.refit import FULLY, GENTLY, Cut, refit
from compressc_prune.scoring import Scorer
from compressc_prune.targets import COSTS, Target
from compressc_prune.verdicts import NORMALIZED, verdicts, what, with_culprit

#: A share of a cost that is to be left.
Share = Annotated[float, Field(gt=0, lt=1)]


class Prune(Pass):
    """Remove the least important channels, neurons and attention heads, and slice every tensor.

    What must be cut together (residual streams, depthwise convolutions, fused qkv, heads) comes
    from the graph's coupling analysis, so nothing has to be named; before anything is cut, the
    sliced graph must compute what the full one does with zeros. The model's inputs and outputs keep
    their widths. Sources: Li et al. 2017 (magnitude), Molchanov et al. 2019 (taylor), Fang et
    al. 2023 (DepGraph).

    Legal where nothing reads single indices of a width. Cost: accuracy, until `distill` recovers
    it.
    """

    name: ClassVar[str] = "prune"
    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    reads_target: ClassVar[frozenset[str]] = frozenset({"batches", "threads"})
    before: ClassVar[Mapping[str, str]] = {
        "distill": "distillation recovers what pruning loses",
        "quant": "int8 weights cannot be sliced without calibrating again",
    }

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each width to remove; weights fall by about the square of what is left."""
    macs: Share | None = None
    """In place of `ratio`: share of the multiply-accumulates of one sample that is to be left. Met
    within 3 %, or as near as widths allow, with a note."""
    params: Share | None = None
    """The same of the parameters."""
    bytes: Share | None = None
    """The same of the bytes of all tensors."""
    latency: Share | None = None
    """The same of the time in ONNX Runtime: predicted by a table of the latencies of the layers,
    which is measured once on this machine, and checked by measuring the whole. Widths are chosen
    by a knapsack over importance lost and time saved, unless `allocation` says otherwise."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Of `latency`: the batch size at which time counts; the first of the target's if not given."""
    table: str | None = None
    """Of `latency`: the `table.json` of another device, see `compressc probe`."""
    importance: str = "magnitude"
    """Score of an index: `magnitude` (squared weights), `taylor` (weight times gradient on
    calibration data) or any other of `compressc importances`, options in brackets."""
    allocation: Literal["uniform", "global", "sensitivity", "knapsack"] = "uniform"
    """How much of each width goes: the same share of all (`uniform`); the indices of all widths are
    ranked together (`global`); by what cutting each width alone costs on calibration data
    (`sensitivity`); or by the importance lost for the time saved (`knapsack`, with `latency`)."""
    uniform: bool = False
    """Corresponding widths of repeated blocks get one size, so that a Hugging Face configuration
    can say it: one number of heads, one head width, one MLP width."""
    keep: Patterns = ()
    """Layers that nothing is cut of, by patterns of names: `keep="head.*"`, several with commas."""
    round_to: Annotated[int, Field(ge=1, le=512)] = 8
    """Keep a multiple of this many channels (never of heads): odd widths run slower. With `latency`
    the step that the table shows, where this is not given."""
    global_ranking: Annotated[bool, Field(alias="global")] = False
    """Short for `allocation=global`."""
    attention: Literal["heads", "head_width", "both", "keep"] = "heads"
    """What to cut of attention: whole heads, the width of every head, both, or nothing (`keep`)."""
    normalized: bool = False
    """Also cut widths that a layer norm or a mean runs over. Such a cut is not the same as zeroing,
    and costs more accuracy before distillation."""
    refit: Literal["auto"] | bool = "auto"
    """Fit what reads a cut width anew, in closed form, so that it gives on calibration data what it
    gave before. `true`: as well as it can, for a model that is not trained afterwards; `auto`:
    where there are data, and gently, which is the better start for a training."""
    statistics: bool = True
    """Take the mean and variance of batch norms anew from calibration data, where there are any."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        """Options that contradict each other are an error before any work starts."""
        given = [name for name in ("ratio", *COSTS, "latency") if name in self.model_fields_set]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: give one of them")
        if self.global_ranking and self.allocation == "sensitivity":
            raise ValueError("global and allocation=sensitivity: give one of them")
        of_latency = {
            "batch": self.batch is not None,
            "table": self.table is not None,
            "allocation=knapsack": self.allocation == "knapsack",
        }
        for name in (name for name, is_given in of_latency.items() if is_given):
            if self.latency is None:
                raise ValueError(f"{name} is for latency=0.5 and the like")
        return self

    @property
    def requirements(self) -> frozenset[str]:
        """What an importance reads beside the weights is measured on data; so are losses, and what
        layers are refitted to."""
        refits = self.refit is True
        looks = self._importance.reads or refits or self.allocation == "sensitivity"
        return frozenset({"data"}) if looks else self.needs

    @field_validator("importance")
    @classmethod
    def _known(cls, text: str) -> str:
        """A misspelt importance is an error before any work starts."""
        parse_importance(text)
        return text

    @field_validator("table")
    @classmethod
    def _readable(cls, path: str | None) -> str | None:
        """A table that cannot be read is an error before any work starts."""
        if path is not None:
            read_table(path)
        return path

    @property
    def target_parts(self) -> frozenset[str]:
        """Only what is measured depends on where the result will run."""
        return frozenset() if self.latency is None else self.reads_target

    def cache_key(self) -> dict[str, Any]:
        """With what is in the table: another one of that name gives another result."""
        key = super().cache_key()
        if self.latency is not None:  # what was left open is chosen otherwise than its default
            key["chosen"] = [self._way, "round_to" in self.model_fields_set]
        if self.table is not None:
            key["table"] = hashlib.sha256(Path(self.table).read_bytes()).hexdigest()
        return key

    @property
    def _importance(self) -> Importance:
        return parse_importance(self.importance)

    def uses(self) -> tuple[Any, ...]:
        """The importance: another one of the same name makes another result."""
        return (type(self._importance),)

    def run(self, graph: Graph, ctx: Context) -> None:
        """Score, choose, prove and cut."""
        found = couple(graph)
        refused = self._refused(graph, found)
        scorer = Scorer(graph, found, self._importance, ctx)
        plan = Plan(self._wish, graph, found, ctx, scorer.score_all(_allowed(found, refused)))
        kept = plan.kept(refused)
        self._tell(graph, found, kept, self._spared(found, refused, kept), ctx)
        uncut = graph.copy()
        cut = {width.axis: indices for width, indices in kept.items()}
        cut_widths(graph, found, cut)
        if self.refit is True or (self.refit and ctx.data is not None):
            refit(graph, Cut(uncut, found, cut), ctx, FULLY if self.refit is True else GENTLY)
        if self.statistics:
            reestimate_behind(graph, {slot.op for width in kept for slot in width.slots}, ctx)
        cost = beside(graph, uncut, ctx.example())
        ctx.note(graph.name, str(cost))
        plan.tell(cost)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By the coupling of the graph; only a ranking or a loss has to look at weights or data."""
        found = couple(graph)
        refused = self._refused(graph, found)
        allowed = _allowed(found, refused)
        if self.latency is not None:
            return self._unknown(graph, found, refused)
        if self._wish.allocation != "uniform":
            scores = Scorer(graph, found, self._importance, ctx).score_all(allowed)
        else:  # how many indices go depends on the size alone
            scores = {width: torch.zeros(width.size) for width in allowed}
        kept = Plan(self._wish, graph, found, ctx, scores).kept(refused)
        return verdicts(graph, found, kept, self._spared(found, refused, kept))

    @property
    def _wish(self) -> Wish:
        """How much of which widths is to go."""
        shares = {name: getattr(self, name) for name in (*COSTS, "latency")}
        given = [Target(name, share) for name, share in shares.items() if share is not None]
        return Wish(
            ratio=self.ratio,
            target=given[0] if given else None,
            allocation=self._way,
            uniform=self.uniform,
            rounding=Rounding(self.round_to),
            rounded="round_to" in self.model_fields_set,
            batch=self.batch,
            table=self.table,
            comparable=self._importance.comparable,
        )

    @property
    def _way(self) -> Way:
        if self.global_ranking:
            return "global"
        chosen = "allocation" in self.model_fields_set
        return "knapsack" if self.latency is not None and not chosen else self.allocation

    def _unknown(
        self, graph: Graph, found: Coupling, refused: Mapping[Axis, str]
    ) -> dict[str, Verdict]:
        """Nothing is measured to tell what a run would do."""
        kept = {width: torch.arange(1) for width in _allowed(found, refused)}
        every = verdicts(graph, found, kept, self._spared(found, refused, kept))
        text = "does not say: how much of it goes depends on measured times"
        return {
            name: Verdict.unknown(text) if verdict.outcome == "does" else verdict
            for name, verdict in every.items()
        }

    def _refused(self, graph: Graph, found: Coupling) -> dict[Axis, str]:
        """Leaf axis of each width -> why it must not be cut, or nothing."""
        kept = protected(graph, found.widths(), self.keep)
        stale = {leaf: f"a size of %{op} would not follow" for leaf, op in found.stale.items()}
        widths = found.widths()
        refused = {
            width.axis: self._refusal(width)
            or stale.get(width.axis, "")
            or kept.get(width.axis, "")
            for width in widths
        }
        free = [width for width in widths if not refused[width.axis]]
        return refused | dict.fromkeys(doubled(free, cofactors(found)), INSTEAD)

    def _spared(
        self, found: Coupling, refused: Mapping[Axis, str], kept: Mapping[Width, torch.Tensor]
    ) -> dict[Axis, str]:
        """Why each width that is not cut is not, those too that would lose nothing."""
        nothing = self._wish.spares
        cut = {width.axis for width in kept}
        return {leaf: reason or nothing for leaf, reason in refused.items() if leaf not in cut}

    def _tell(
        self,
        graph: Graph,
        found: Coupling,
        kept: Mapping[Width, torch.Tensor],
        spared: Mapping[Axis, str],
        ctx: Context,
    ) -> None:
        """A note for each width, and one for each op with parameters that no width spoke for."""
        told: set[str] = set()
        pairs = cofactors(found)
        cut = {width.axis for width in kept}
        for width in found.widths():
            axis = width.axis
            if axis.frozen and not axis.role and cut & pairs.get(axis, set()):
                told.update(width.producers)  # the other factor speaks for the channels
            elif width.producers:
                reason = with_culprit(spared.get(width.axis, ""), width.axis, width.producers)
                text = f"skipped {what(width)}: {reason}"
                if width in kept:
                    text = f"kept {len(kept[width])} of {width.size} {what(width)}"
                ctx.note(", ".join(width.producers), text)
                told.update(width.producers)
        for name, verdict in verdicts(graph, found, kept, spared).items():
            if name not in told and parameters_of(graph[name]) and not verdict.tensors:
                acts = verdict.outcome == "does"
                ctx.note(name, verdict.text if acts else f"skipped: {verdict.text}")

    def _refusal(self, width: Width) -> str:
        axis = width.axis
        if not width.producers:
            return axis.frozen or "no layer and no product with a parameter makes it"
        if axis.frozen:
            return axis.frozen
        if axis.normalized and not self.normalized:
            return NORMALIZED
        if axis.role == "heads" and self.attention not in ("heads", "both"):
            return f"attention={self.attention} keeps heads"
        if axis.role == "queries per head":
            return "whole groups of heads are cut instead"
        if axis.role == "head width" and self.attention not in ("head_width", "both"):
            return f"attention={self.attention} keeps head widths"
        return ""


def _allowed(found: Coupling, refused: Mapping[Axis, str]) -> list[Width]:
    return [width for width in found.widths() if not refused[width.axis]]
