"""Ranks for a budget: what is lost over all layers is to be least at a given cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from compressc_lowrank.planning import Plan


@dataclass(frozen=True)
class Choice:
    """One thing that may become of a layer.

    Attributes:
        plan: None where it stays.
        cost: parameters, or multiply-accumulates.
        lost: what it does to the answers; 0 where it stays.
    """

    plan: Plan | None
    cost: int
    lost: float


#: Layer -> what may become of it; the first is that it stays.
Menus = Mapping[str, Sequence[Choice]]


class _Step(NamedTuple):
    """From one choice to a cheaper one."""

    slope: float
    layer: str
    choice: Choice


def choose(menus: Menus, most: int) -> dict[str, Choice] | None:
    """A choice for each layer with a sum of costs of at most `most`, or None where there is none.

    The Lagrangian of the sum: the convex hull of each menu is gone down step by step, always where
    the least is lost for what is saved (Everett 1963; of ranks, Idelbayev and Carreira-Perpinan
    2020). The last step overshoots; what it leaves is given back where most is won.
    """
    chosen = {layer: menu[0] for layer, menu in menus.items()}
    cost = sum(choice.cost for choice in chosen.values())
    steps = sorted(
        (step for layer, menu in menus.items() for step in _steps(layer, menu)),
        key=lambda step: step.slope,
    )
    for _, layer, choice in steps:
        if cost <= most:
            break
        cost += choice.cost - chosen[layer].cost
        chosen[layer] = choice
    if cost > most:
        return None
    _give_back(menus, chosen, most - cost)
    return chosen


def _steps(layer: str, menu: Sequence[Choice]) -> list[_Step]:
    hull = _hull(menu)
    if hull[0] is not menu[0]:  # something costs less and loses nothing
        hull.insert(0, menu[0])
    return [
        _Step((after.lost - before.lost) / (before.cost - after.cost), layer, after)
        for before, after in pairwise(hull)
    ]


def _hull(menu: Sequence[Choice]) -> list[Choice]:
    """The choices that some price per cost makes best, from the dearest down; slopes ascend."""
    hull: list[Choice] = []
    for choice in sorted(menu, key=lambda choice: (-choice.cost, choice.lost)):
        if hull and choice.cost == hull[-1].cost:
            continue
        while hull and choice.lost <= hull[-1].lost:
            hull.pop()
        while len(hull) > 1 and _above(hull[-2], hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _above(dear: Choice, middle: Choice, cheap: Choice) -> bool:
    """Whether the one in the middle lies on or above the line between the others."""
    left = (middle.lost - dear.lost) * (dear.cost - cheap.cost)
    return left >= (cheap.lost - dear.lost) * (dear.cost - middle.cost)


def _give_back(menus: Menus, chosen: dict[str, Choice], slack: int) -> None:
    """Spend what is left of the budget, layer by layer, where most is won."""
    while True:
        best, gain = None, 0.0
        for layer, menu in menus.items():
            now = chosen[layer]
            for choice in menu:
                won = now.lost - choice.lost
                if now.cost < choice.cost <= now.cost + slack and won > gain:
                    best, gain = (layer, choice), won
        if best is None:
            return
        layer, choice = best
        slack -= choice.cost - chosen[layer].cost
        chosen[layer] = choice
