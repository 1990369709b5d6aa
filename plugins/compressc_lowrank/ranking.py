"""Which ranks: by the energy that is kept, fixed, or for a budget of the whole graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compressc.analysis import sizes_of, total_cost
from compressc.analysis.matrices import holds_matrix
from compressc.errors import CompresscError
from compressc.ir import Graph, Op
from compressc.pipeline import Choice, Context, choose
from compressc_lowrank.collecting import Inputs
from compressc_lowrank.factorizing import seen_by
from compressc_lowrank.planning import Plan, candidates, places, too_wide
from compressc_lowrank.schemes import Cost, Ranks, Scheme
from compressc_lowrank.sensitivity import Answers

#: A budget is met where what is left is no more than this share of it away.
TOLERANCE = 0.03


@dataclass(frozen=True)
class Rule:
    """How ranks are chosen; the options of the pass, and the names of the schemes that may be."""

    energy: float
    rank: int | float | None
    params: float | None
    macs: float | None
    names: frozenset[str]
    limit: float
    aware: bool

    @property
    def is_budget(self) -> bool:
        """Whether it is about the whole graph."""
        return self.params is not None or self.macs is not None

    def ranks(self, scheme: Scheme, layer: Any) -> Ranks:
        """Those of one layer by itself."""
        if isinstance(self.rank, float):
            return scheme.share(layer, self.rank)
        if self.rank is not None:
            return scheme.fixed(layer, self.rank)
        return scheme.spectrum(layer).at_least(self.energy)


@dataclass(frozen=True)
class Priced:
    """A scheme that is legal for a layer, and what it costs there."""

    scheme: Scheme
    weights: Cost
    macs: Cost

    def reason(self, ranks: Ranks, limit: float) -> str:
        """Why ranks are no gain, or nothing."""
        return too_wide(self.weights, self.macs, ranks, limit)

    def plan(self, op: Op, ranks: Ranks) -> Plan:
        """The scheme at some ranks."""
        return Plan(self.scheme, ranks, self.scheme.full(op.layer))


@dataclass(frozen=True)
class Row:
    """A way to take a layer apart.

    Attributes:
        plan: the way.
        weights, macs: of the chain, in one run.
        lost: what it does to the answers; without data, the share of the energy that goes.
    """

    plan: Plan
    weights: float
    macs: float
    lost: float


@dataclass(frozen=True)
class Menu:
    """The ways to take a layer apart, and what it costs as it is."""

    weights: float
    macs: float
    rows: tuple[Row, ...]

    def of(self, cost: str) -> list[Choice[Plan | None]]:
        """To choose from by `params` or `macs`; first, that the layer stays."""
        own = "weights" if cost == "params" else "macs"
        menu: list[Choice[Plan | None]] = [Choice(None, getattr(self, own), 0.0)]
        menu += [Choice(row.plan, getattr(row, own), row.lost) for row in self.rows]
        return menu


def legal_schemes(
    graph: Graph, rule: Rule, sizes: Mapping[str, int]
) -> dict[str, list[Priced] | str]:
    """For each op that holds a matrix the schemes that can take it apart, or why none can."""
    found: dict[str, list[Priced] | str] = {}
    for op in graph:
        if holds_matrix(graph, op):
            some = candidates(graph, op, rule.names)
            priced = some if isinstance(some, str) else [_priced(graph, op, s, sizes) for s in some]
            found[op.name] = priced
    return found


def plans(graph: Graph, rule: Rule, ctx: Context, *, bare: bool = False) -> dict[str, Plan | str]:
    """For each op that holds a matrix how it is taken apart, or why it is not.

    Args:
        graph: not changed.
        rule: how ranks are chosen.
        ctx: of the pass.
        bare: the weights are not loaded: where ranks depend on them, plans have none.

    Raises:
        CompresscError: CC102 for a budget that cannot be met.
    """
    sizes = sizes_of(graph, ctx.example())
    found: dict[str, Plan | str] = {}
    legal: dict[str, list[Priced]] = {}
    for name, priced in legal_schemes(graph, rule, sizes).items():
        op = graph[name]
        if isinstance(priced, str):
            found[op.name] = priced
            continue
        found[op.name] = ""
        if rule.is_budget:
            legal[op.name] = priced
        elif bare and (rule.rank is None or len(priced) > 1):
            found[op.name] = priced[0].plan(op, ())
        else:
            found[op.name] = _alone(op, priced, rule)
    if rule.is_budget and bare:
        return found | {name: some[0].plan(graph[name], ()) for name, some in legal.items()}
    return found | (_together(graph, legal, rule, sizes, ctx) if rule.is_budget else {})


def _priced(graph: Graph, op: Op, scheme: Scheme, sizes: Mapping[str, int]) -> Priced:
    weights = scheme.weights(op.layer)
    return Priced(scheme, weights, weights.times(*places(graph, op, scheme, sizes)))


def _alone(op: Op, priced: Sequence[Priced], rule: Rule) -> Plan | str:
    """Of the schemes that pay: the fewest weights by energy, the most energy by rank."""
    ranks = [rule.ranks(one.scheme, op.layer) for one in priced]
    reasons = [one.reason(r, rule.limit) for one, r in zip(priced, ranks, strict=True)]
    paying = [(one, r) for one, r, no in zip(priced, ranks, reasons, strict=True) if not no]
    if not paying:
        return reasons[0]
    best, chosen = paying[0]
    if len(paying) > 1 and rule.rank is None:
        best, chosen = min(paying, key=lambda pair: pair[0].weights.of(pair[1]))
    elif len(paying) > 1:
        best, chosen = max(
            paying, key=lambda pair: pair[0].scheme.spectrum(op.layer).keeps(pair[1])
        )
    return best.plan(op, chosen)


def _together(
    graph: Graph,
    legal: Mapping[str, list[Priced]],
    rule: Rule,
    sizes: Mapping[str, int],
    ctx: Context,
) -> dict[str, Plan | str]:
    """Plans that leave a share of the whole graph, losing the least.

    Raises:
        CompresscError: CC102 where the smallest ranks leave more.
    """
    name, share = ("params", rule.params) if rule.params is not None else ("macs", rule.macs)
    assert share is not None
    cost = total_cost(graph, **sizes)
    whole = cost.parameters if name == "params" else cost.macs
    weighed = dict(weigh(graph, legal, rule, ctx))
    menus = {layer: menu.of(name) for layer, menu in weighed.items()}
    fixed = whole - sum(menu[0].cost for menu in menus.values())
    chosen = choose(menus, int(share * whole) - fixed)
    if chosen is None:
        least = fixed + sum(min(choice.cost for choice in menu) for menu in menus.values())
        raise CompresscError(
            "CC102",
            f"pass 'lowrank' can leave no less than {least / max(whole, 1):.3f} of the {name}",
            got=f"{name}={share:g}",
            hint="prune first, or a larger limit",
        )
    left = (fixed + sum(choice.cost for choice in chosen.values())) / whole
    ctx.record("lowrank", {"of": name, "wanted": share, "left": left})
    text = f"{name}={share:g}: {left:.3f} is left"
    if left < share * (1 - TOLERANCE):
        text += f"; nothing is nearer, because no chain costs {rule.limit:g} of its layer or more"
    ctx.note(graph.name, text)
    return {
        layer: choice.pick or f"{name}={share:g} is met without" for layer, choice in chosen.items()
    }


def weigh(
    graph: Graph, legal: Mapping[str, list[Priced]], rule: Rule, ctx: Context
) -> Iterator[tuple[str, Menu]]:
    """What may become of each layer, what that costs, and what it does to the answers."""
    ops = [graph[name] for name in legal]
    sees = rule.aware and ctx.data is not None
    inputs = Inputs(graph, ops, ctx) if sees else None
    answers = Answers(graph, ctx) if sees else None
    for done, op in enumerate(ops):
        ctx.progress("weighing layers", done, len(ops))
        layer, seen = op.layer, seen_by(graph, op, inputs)
        rows: list[Row] = []
        for one in legal[op.name]:
            if rule.macs is not None and one.macs.dense <= 0:
                continue
            spectrum = one.scheme.spectrum(layer, seen)
            columns = spectrum.ranks.T
            fine = (one.weights.of(columns) < rule.limit * one.weights.dense) & (
                (one.macs.of(columns) < rule.limit * one.macs.dense) | (one.macs.dense <= 0)
            )
            found = zip(
                spectrum.ranks[fine].tolist(),
                one.weights.of(columns)[fine].tolist(),
                one.macs.of(columns)[fine].tolist(),
                spectrum.kept[fine].tolist(),
                strict=True,
            )
            rows += [Row(one.plan(op, tuple(r)), w, m, 1 - kept) for r, w, m, kept in found]
        scale = 1.0
        if answers is not None:
            scale = answers.scale(op, [(row.plan, row.lost) for row in rows], seen)
        dense = legal[op.name][0]
        scaled = tuple(replace(row, lost=row.lost * scale) for row in rows)
        yield op.name, Menu(dense.weights.dense, max(dense.macs.dense, 0), scaled)
