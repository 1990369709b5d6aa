"""The `lowrank` pass: thin layers in place of wide ones, by the table of schemes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compressc.analysis import sizes_of
from compressc.analysis.coverage import Verdict, parameters_of
from compressc.collecting import freed_at_once
from compressc.ir import Graph, Op
from compressc.pipeline import Context, Offer, Pass
from compressc.training import reestimate_behind
from compressc_lowrank.collecting import Inputs
from compressc_lowrank.factorizing import factorize
from compressc_lowrank.matrices import matrix_names
from compressc_lowrank.offering import offers, plans_picked
from compressc_lowrank.planning import Plan
from compressc_lowrank.ranking import Rule, plans
from compressc_lowrank.stacks import Split
from compressc_lowrank.timing import slower


class LowRank(Pass):
    """Replace wide linear layers, convolutions and tables by thin ones.

    W [out, in] becomes U [out, r] V [r, in]; a k x k convolution becomes two or three (see
    `scheme`), a table one of r columns and a linear layer; what
    a recurrent layer reads, r numbers. On calibration data, the factors are
    those whose results are nearest to the layer's, and its bias takes up the mean of what is lost;
    without, those nearest to its weights (Eckart and Young 1936). The singular values are shared
    out, so that the factors train alike.

    Legal where the chain has less than `limit` of the weights and of the multiply-accumulates:
    never where the result would not be smaller. Cost: the discarded energy, which bounds the error
    of the layer.
    """

    name: ClassVar[str] = "lowrank"
    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    reads_target: ClassVar[frozenset[str]] = frozenset({"backends", "batches", "threads"})
    before: ClassVar[Mapping[str, str]] = {
        "distill": "distillation recovers what factorization loses",
        "quant": "int8 weights cannot be factorized",
    }
    after: ClassVar[Mapping[str, str]] = {
        "prune": "factors hide the channels that pruning scores",
    }

    energy: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the squared singular values of the weights to keep; not used where `rank`, `params`
    or `macs` is given."""
    rank: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """The same rank for every layer; below 1, the share of its weights that the factors have."""
    params: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the graph's parameters that is left: ranks are chosen so that the least is lost over
    all layers. On calibration data by what each layer does to the answers."""
    macs: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The same for multiply-accumulates."""
    scheme: Literal["auto", "svd", "channel", "spatial", "tucker"] = "auto"
    """For k x k convolutions: `channel` (k x k to r channels, then 1x1), `spatial` (k x 1, then
    1 x k) or `tucker` (1x1, k x k between few channels, 1x1); `svd` leaves them alone. `auto` takes
    for each the one with the fewest weights at that energy, with the most energy at that rank."""
    embeddings: bool = True
    """Whether to factorize tables; the file gets smaller, and looking up gets slower."""
    aware: bool = True
    """Choose factors by what layers put out on calibration data, where there are any."""
    limit: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Factorize only below this share of the weights: near it, two layers run slower."""
    measure: bool = False
    """Time each factorized layer beside what it replaces, in the first runtime of the target, and
    leave it where it is not faster. Another run may measure, and so decide, otherwise."""

    @model_validator(mode="after")
    def _one_rule(self) -> LowRank:
        given = [name for name in ("rank", "params", "macs") if getattr(self, name) is not None]
        if "energy" in self.model_fields_set:
            given.insert(0, "energy")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each choose the ranks: give one of them")
        return self

    @property
    def target_parts(self) -> frozenset[str]:
        """Only what is measured depends on where the result will run."""
        return self.reads_target if self.measure else frozenset()

    @freed_at_once()  # a decomposition takes many times its matrix
    def run(self, graph: Graph, ctx: Context) -> None:
        """Factorize layer by layer; every layer with a matrix left alone gets a note.

        Raises:
            CompresscError: CC102 where no ranks are as small as `params` or `macs` asks for.
        """
        split = Split.of(graph)
        found = plans(split.graph, self._rule(), ctx)
        if self.measure:
            found |= slower(split.graph, found, ctx)
        self._factorize(graph, split.settled(graph, found, ctx), ctx)

    def _factorize(self, graph: Graph, found: Mapping[str, Plan | str], ctx: Context) -> None:
        """Take layers apart by their plans; in place of one there may be why it is left."""
        chosen = {name: plan for name, plan in found.items() if isinstance(plan, Plan)}
        ops = [graph[name] for name in chosen]
        inputs = Inputs(graph, ops, ctx) if self._sees(ctx) else None
        for op in graph:
            plan = found.get(op.name)
            if isinstance(plan, Plan):
                factorize(graph, op, plan, inputs, ctx)
            elif plan is not None:
                ctx.note(op.name, f"skipped: {plan}")
        reestimate_behind(graph, chosen, ctx)

    def choices(self, graph: Graph, ctx: Context) -> Sequence[Offer]:
        """Each layer that may be factorized, at up to five ranks, by what it does to the answers.

        It is measured at one rank of each layer, and follows the lost energy at the others.
        """
        ctx.require_data("lowrank choices")
        sizes = sizes_of(graph, ctx.example())
        return offers(Split.of(graph).graph, self._rule(), sizes, ctx)

    def take(self, graph: Graph, ctx: Context, picked: Sequence[Offer]) -> None:
        """Factorize the layers that were picked."""
        sizes = sizes_of(graph, ctx.example())
        split = Split.of(graph)
        found = plans_picked(split.graph, self._rule(), sizes, picked, ctx)
        self._factorize(graph, split.settled(graph, found, ctx), ctx)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By the ranks that `run` would choose: singular values are computed, vectors are not."""
        bare = any(tensor.is_meta for op in graph for _, tensor in parameters_of(op))
        split = Split.of(graph)
        found = plans(split.graph, self._rule(), ctx, bare=bare)
        each = {op.name: self._verdict(op, found.get(op.name)) for op in split.graph}
        verdicts = split.verdicts(each)
        return {op.name: verdicts[op.name] for op in graph}

    def _verdict(self, op: Op, plan: Plan | str | None) -> Verdict:
        if plan is None:
            return Verdict.idle("no matrix of weights")
        if isinstance(plan, str):
            return Verdict.cannot(plan)
        if not plan.ranks:
            return Verdict.unknown("does not say: the rank depends on weights that are not loaded")
        if self.measure:
            return Verdict.unknown(f"factorizes to rank {plan} where that measures faster")
        return Verdict.does(f"factorizes to rank {plan}", *matrix_names(op.layer))

    def _sees(self, ctx: Context) -> bool:
        return self.aware and ctx.data is not None

    def _rule(self) -> Rule:
        names = {"svd", "channel", "spatial", "tucker"} if self.scheme == "auto" else {"svd"}
        names |= {self.scheme, "recurrent"} | ({"embedding"} if self.embeddings else set())
        return Rule(
            energy=self.energy,
            rank=self.rank,
            params=self.params,
            macs=self.macs,
            names=frozenset(names),
            limit=self.limit,
            aware=self.aware,
        )
