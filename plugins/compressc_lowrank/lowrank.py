"""The `lowrank` pass: truncated singular value decomposition of linear layers and 1x1 convs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from compressc.analysis.coverage import Verdict, is_recurrent_weight, parameters_of
from compressc.editing import Stage, expand
from compressc.ir import Graph, Op, TensorType
from compressc.pipeline import Context, Pass
from compressc.training import reestimate_behind
from compressc_lowrank.schemes import SCHEMES, Cost, Link, Ranks, Scheme, matrix_of


class LowRank(Pass):
    """Replace a wide linear layer or 1x1 convolution by two thin ones.

    W [out, in] becomes U [out, r] V [r, in] with the r largest singular values (Eckart and Young
    1936), each factor carrying their square roots so that both train alike.

    Legal where r < limit * in * out / (in + out): never where the result would not be smaller.
    Cost: the discarded energy, which bounds the error of the layer.
    """

    name: ClassVar[str] = "lowrank"
    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    reads_target: ClassVar[frozenset[str]] = frozenset()
    before: ClassVar[Mapping[str, str]] = {
        "distill": "distillation recovers what factorization loses",
        "quant": "int8 weights cannot be factorized",
    }
    after: ClassVar[Mapping[str, str]] = {
        "prune": "factors hide the channels that pruning scores",
    }

    energy: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the squared singular values to keep; not used where `rank` is given."""
    rank: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """The same rank for every layer; below 1, the share of its weights that the factors have."""
    limit: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Factorize only below this share of the break-even rank: near it, two layers run slower."""

    def run(self, graph: Graph, ctx: Context) -> None:
        """Factorize layer by layer; every layer with parameters left alone gets a note."""
        changed = []
        for op in graph:
            if not parameters_of(op):
                continue
            plan = self._plan(graph, op)
            if isinstance(plan, str):
                ctx.note(op.name, f"skipped: {plan}")
            else:
                _factorize(graph, op, plan, ctx)
                changed.append(op.name)
        reestimate_behind(graph, changed, ctx)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By the ranks that `run` would choose: singular values are computed, vectors are not."""
        return {op.name: self._verdict(graph, op) for op in graph}

    def _verdict(self, graph: Graph, op: Op) -> Verdict:
        if not parameters_of(op):
            return Verdict.idle("no weights")
        if self.rank is None and not obstacle(graph, op) and matrix_of(op.layer).is_meta:
            return Verdict.unknown("does not say: the rank depends on weights that are not loaded")
        plan = self._plan(graph, op)
        if isinstance(plan, str):
            return Verdict.cannot(plan)
        return Verdict.does(f"factorizes to rank {plan}", "weight")

    def _plan(self, graph: Graph, op: Op) -> Plan | str:
        """What becomes of a layer, or why nothing does."""
        reason = obstacle(graph, op)
        if reason:
            return reason
        scheme = scheme_of(op)
        ranks = self._ranks(scheme, op)
        return too_wide(scheme.parameters(op.layer), ranks, self.limit) or Plan(
            scheme, ranks, scheme.full(op.layer)
        )

    def _ranks(self, scheme: Scheme, op: Op) -> Ranks:
        if isinstance(self.rank, float):
            return (max(1, int(self.rank * scheme.parameters(op.layer).break_even)),)
        return (self.rank,) if self.rank else scheme.spectrum(op.layer).at_least(self.energy)


@dataclass(frozen=True)
class Plan:
    """How a layer is taken apart; its text is `3 of 24`."""

    scheme: Scheme
    ranks: Ranks
    full: Ranks

    def __str__(self) -> str:
        pairs = zip(self.ranks, self.full, strict=True)
        return ", ".join(f"{rank} of {most}" for rank, most in pairs)


def too_wide(cost: Cost, ranks: Ranks, limit: float) -> str:
    """Why ranks are no gain, or nothing."""
    if cost.of(ranks) < limit * cost.dense:
        return ""
    return f"rank {ranks[0]} is not below {limit} of break-even {cost.break_even:.1f}"


def _factorize(graph: Graph, op: Op, plan: Plan, ctx: Context) -> None:
    before = matrix_of(op.layer).double()
    *front, last = plan.scheme.chain(op.layer, plan.ranks)
    stages = [Stage(link.suffix, link.layer, _type(op, link), link.kind) for link in front]
    expand(graph, op.name, stages, last.layer, last.kind)
    after = matrix_of(last.layer).double() @ matrix_of(front[0].layer).double()
    kept = 1 - float((before - after).pow(2).sum() / before.pow(2).sum().clamp_min(1e-30))
    ctx.note(op.name, f"rank {plan} keeps {kept:.1%} of the energy")


def _type(op: Op, link: Link) -> TensorType:
    """Of a link's result: the op's, with other channels."""
    assert isinstance(op.type, TensorType)
    shape = list(op.type.shape)
    shape[-3 if link.kind == "conv2d" else -1] = link.channels
    return TensorType(op.type.dtype, tuple(shape))


def scheme_of(op: Op) -> Scheme:
    """The scheme for layers of that kind."""
    return next(scheme for scheme in SCHEMES if op.kind in scheme.kinds)


def obstacle(graph: Graph, op: Op) -> str:
    """Why a layer with parameters cannot be factorized at all, or nothing."""
    layer: Any = op.layer
    if is_recurrent_weight(graph, op):
        return "a weight of a recurrent layer, which takes whole matrices alone"
    if not any(op.kind in scheme.kinds for scheme in SCHEMES):
        return f"{op.kind} is no linear layer or 1x1 convolution"
    reason = scheme_of(op).obstacle(layer)
    if not reason and len(graph.holders(layer.weight)) > 1:
        reason = "its weight is tied to another layer"
    return reason
