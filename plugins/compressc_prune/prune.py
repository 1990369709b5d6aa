"""The `prune` pass: which widths, how many indices of each, and the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch

from compressc.analysis import Axis, Coupling, Width, beside, couple
from compressc.analysis.coverage import Verdict, parameters_of
from compressc.analysis.matrices import holds_matrix
from compressc.depth import Depth, dropped, merged
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context, Offer
from compressc_prune.cutting import Chosen
from compressc_prune.experts.cutting import cut_experts, with_fewer
from compressc_prune.factors import INSTEAD, cofactors, doubled
from compressc_prune.offering import offers, sizes_picked
from compressc_prune.options import PruneOptions
from compressc_prune.origin import Uncut
from compressc_prune.planning import Plan, Wish
from compressc_prune.protected import protected
from compressc_prune.refit import FULLY, GENTLY, Manner
from compressc_prune.rivals import better
from compressc_prune.scoring import Scorer
from compressc_prune.stepwise import Steps
from compressc_prune.verdicts import NORMALIZED, verdicts, what, with_culprit


class Prune(PruneOptions):
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

    def run(self, graph: Graph, ctx: Context) -> None:
        """Score, choose, prove and cut; in steps with trainings in between where it is asked for.

        Raises:
            CompresscError: CC102 where a target cannot be met, before anything is changed.
        """
        whole = graph.copy() if self.cuts_parts or self.steps > 1 else None
        self._drop(graph, ctx)
        if not self.cuts_widths:
            assert whole is not None
            self._tell_cost(graph, whole, ctx)
        elif whole is None:
            self._cut(graph, ctx)
        else:
            rest = graph.copy() if self.cuts_parts else whole
            uncut = Uncut(rest, couple(rest), whole)
            self._cut(graph, ctx, uncut) if self.steps == 1 else self._in_steps(graph, ctx, uncut)

    def _drop(self, graph: Graph, ctx: Context) -> None:
        """Blocks, by what they cost where there are data, and experts."""
        if self.depth is not None:
            pick = self.blocks_by
            if pick == "auto":
                pick = "spread" if ctx.data is None else "costs"
            Depth(self.depth, None, pick, "", self.name, "prune(ratio=0.5)").cut(graph, ctx)
        if self.experts is not None:
            cut_experts(graph, self.experts, ctx)

    def _cut(self, graph: Graph, ctx: Context, uncut: Uncut | None = None) -> None:
        """Widths, in one step."""
        wish = self._wish
        if wish.compared and ctx.data is not None:
            choose = partial(self._chosen, graph, uncut=uncut)
            chosen = better(wish, graph, ctx, choose, self._make)
        else:
            chosen = self._chosen(graph, wish, ctx, uncut)
        found, kept = chosen.found, chosen.kept
        self._tell(graph, found, kept, self._spared(found, chosen.refused, kept), ctx)
        self._make(chosen, graph, ctx)
        self._tell_cost(graph, uncut.whole if uncut else chosen.uncut, ctx, chosen.plan)

    def _in_steps(self, graph: Graph, ctx: Context, uncut: Uncut) -> None:
        """Widths, with trainings in between."""
        option = self._wish.target.option if self._wish.target else "ratio"
        last = Steps(self.steps, self.epochs_between, self._step, option).run(graph, ctx, uncut)
        self._tell_all(graph, uncut, last, ctx)

    def _step(self, graph: Graph, ctx: Context, step: int, uncut: Uncut) -> Chosen:
        """One of several cuts; before the first the whole way is looked at."""
        last = self._wish if step == 1 else None
        wish = self._wish.towards(step, self.steps)
        is_whole = step == 1 and uncut.graph is uncut.whole
        chosen = self._chosen(graph, wish, ctx, None if is_whole else uncut, last)
        self._make(chosen, graph, ctx)
        return chosen

    def _chosen(
        self,
        graph: Graph,
        wish: Wish,
        ctx: Context,
        uncut: Uncut | None = None,
        last: Wish | None = None,
    ) -> Chosen:
        """What to cut.

        Args:
            graph: not changed.
            wish: how much.
            ctx: of the pass.
            uncut: what the graph was before the first of several cuts.
            last: how much is to go in the end; it must be possible.
        """
        found = couple(graph)
        refused = self._refused(graph, found)
        scores = Scorer(graph, found, self._importance, ctx).score_all(_allowed(found, refused))
        origin = None if uncut is None else uncut.origin(found)
        plan = Plan(wish, graph, found, ctx, scores, origin)
        if last is not None:
            plan.require(last.target)
        kept = plan.kept(refused)
        return Chosen(graph.copy(), found, plan, refused, kept)

    def _make(self, chosen: Chosen, graph: Graph, ctx: Context) -> None:
        """A cut, with what the options mend of it."""
        chosen.cut(graph, ctx, self._manner(ctx), self.statistics)

    def _manner(self, ctx: Context) -> Manner | None:
        """How hard to refit."""
        if self.refit == "auto":
            return None if ctx.data is None else GENTLY
        return FULLY if self.refit else None

    def _tell_all(self, graph: Graph, uncut: Uncut, last: Chosen, ctx: Context) -> None:
        """What became of each width over all cuts, and why others lost nothing."""
        kept = {w: torch.arange(n) for w, n in uncut.left(couple(graph)).items()}
        refused = self._refused(uncut.graph, uncut.found)
        for leaf, width in uncut.origin(last.found).widths.items():
            refused[width.axis] = refused[width.axis] or last.refused.get(leaf, "")
        self._tell(uncut.graph, uncut.found, kept, self._spared(uncut.found, refused, kept), ctx)
        self._tell_cost(graph, uncut.whole, ctx, last.plan)

    def _tell_cost(
        self, graph: Graph, whole: Graph, ctx: Context, plan: Plan | None = None
    ) -> None:
        cost = beside(graph, whole, ctx.example())
        ctx.note(graph.name, str(cost))
        left = {name: cost.share(name) for name in ("parameters", "macs", "bytes")}
        ctx.record("prune", {"left": left, "at": cost.sizes})
        if plan is not None:
            plan.tell(left)

    def choices(self, graph: Graph, ctx: Context) -> Sequence[Offer]:
        """Each width that may be cut, at three sizes; losses are those of slicing alone."""
        ctx.require_data("prune choices")
        return offers(self._open(graph, ctx)[0], ctx, self.statistics)

    def take(self, graph: Graph, ctx: Context, picked: Sequence[Offer]) -> None:
        """Prove and cut the widths that were picked."""
        plan, refused = self._open(graph, ctx)
        kept = plan.held(sizes_picked(plan, picked, ctx), refused)
        self._make(Chosen(graph.copy(), plan.found, plan, refused, kept), graph, ctx)
        for width, indices in kept.items():
            text = f"kept {len(indices)} of {width.size} {what(width)}"
            ctx.note(", ".join(width.producers), text)

    def _open(self, graph: Graph, ctx: Context) -> tuple[Plan, dict[Axis, str]]:
        """A plan that no amount is wished of, and why widths must not be cut."""
        found = couple(graph)
        refused = self._refused(graph, found)
        scores = Scorer(graph, found, self._importance, ctx).score_all(_allowed(found, refused))
        wish = replace(self._wish, target=None, allocation="uniform")
        return Plan(wish, graph, found, ctx, scores), refused

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By the coupling of the graph; only a ranking or a loss has to look at weights or data."""
        if not self.cuts_parts:
            return self._coverage_of_widths(graph, ctx)
        left = graph.copy()
        try:
            self._drop(left, ctx)
        except CompresscError as error:  # `run` would end with it
            reason = Verdict.cannot(f"{error.wanted} (got {error.got})")
            return {op.name: reason for op in graph}
        parts = dropped(graph, left) | with_fewer(graph, left)
        widths = [self._coverage_of_widths(left, ctx)] if self.cuts_widths else []
        return merged(graph, [parts, *widths])

    def _coverage_of_widths(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
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
        """A note for each width, each matrix that no width spoke for, and each reason not told."""
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
        said = "\n".join(text for _, text in ctx.notes)
        for name, verdict in verdicts(graph, found, kept, spared).items():
            op = graph[name]
            untold = any(reason not in said for reason in verdict.text.split("; "))
            alone = untold and verdict.outcome == "cannot" and bool(parameters_of(op))
            if name not in told and not verdict.tensors and (alone or holds_matrix(graph, op)):
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
