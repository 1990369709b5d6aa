"""Choosing among what may be done to many parts of a model: the least lost at a given cost.

A pass says of each part what may become of it, what that costs and what it loses (a menu). Which
choices are worth anything is the lower convex hull of a menu; which of all are taken is a walk down
all hulls together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
Part = TypeVar("Part", bound=Hashable)


@dataclass(frozen=True)
class Choice(Generic[T]):
    """One thing that may become of a part of a model.

    Attributes:
        pick: what it is; the pass that offers it knows.
        cost: what is left: seconds, bytes, parameters, multiply-accumulates.
        lost: what it does to the answers; 0 where nothing is done.
    """

    pick: T
    cost: float
    lost: float


#: Part -> what may become of it; the first is that it stays.
Menus = Mapping[Part, Sequence[Choice[T]]]


class _Step(NamedTuple, Generic[Part, T]):
    """From one choice to a cheaper one."""

    slope: float
    part: Part
    choice: Choice[T]


def choose(menus: Menus[Part, T], most: float) -> dict[Part, Choice[T]] | None:
    """A choice for each part with a sum of costs of at most `most`, or None where there is none.

    The Lagrangian of the sum: the convex hull of each menu is gone down step by step, always where
    the least is lost for what is saved (Everett 1963; of ranks, Idelbayev and Carreira-Perpinan
    2020). The last step overshoots; what it leaves is given back where most is won.
    """
    chosen = {part: menu[0] for part, menu in menus.items()}
    cost = sum(choice.cost for choice in chosen.values())
    steps: list[_Step[Part, T]] = [
        step for part, menu in menus.items() for step in _steps(part, menu)
    ]
    for _, part, choice in sorted(steps, key=lambda step: step.slope):
        if cost <= most:
            break
        cost += choice.cost - chosen[part].cost
        chosen[part] = choice
    if cost > most:
        return None
    _give_back(menus, chosen, most - cost)
    return chosen


def lower_hull(points: Iterable[T], xy: Callable[[T], tuple[float, float]]) -> list[T]:
    """The points of the lower convex hull, x ascending; slopes ascend.

    Of points with the same x the lowest counts; of points on a line only the ends.

    Args:
        points: in any order.
        xy: where each of them lies.
    """
    hull: list[T] = []
    for point in sorted(points, key=xy):
        if hull and xy(point)[0] == xy(hull[-1])[0]:
            continue
        while len(hull) > 1 and _above(xy(hull[-2]), xy(hull[-1]), xy(point)):
            hull.pop()
        hull.append(point)
    return hull


def _above(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether `b` lies on or above the line from `a` to `c`."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def _steps(part: Part, menu: Sequence[Choice[T]]) -> list[_Step[Part, T]]:
    hull = _worthy(menu)
    if hull[0] is not menu[0]:  # something costs less and loses nothing
        hull.insert(0, menu[0])
    return [
        _Step((after.lost - before.lost) / (before.cost - after.cost), part, after)
        for before, after in pairwise(hull)
        if after.cost < before.cost
    ]


def _worthy(menu: Sequence[Choice[T]]) -> list[Choice[T]]:
    """The choices that some price per cost makes best, from the dearest down."""
    hull = lower_hull(menu, lambda choice: (choice.cost, choice.lost))
    least = min(range(len(hull)), key=lambda place: hull[place].lost)
    return hull[least::-1]  # what costs more and loses no less is worth nothing


def _give_back(menus: Menus[Part, T], chosen: dict[Part, Choice[T]], slack: float) -> None:
    """Spend what is left of the budget, part by part, where most is won."""
    while True:
        best, gain = None, 0.0
        for part, menu in menus.items():
            now = chosen[part]
            for choice in menu:
                won = now.lost - choice.lost
                if now.cost < choice.cost <= now.cost + slack and won > gain:
                    best, gain = (part, choice), won
        if best is None:
            return
        part, choice = best
        slack -= choice.cost - chosen[part].cost
        chosen[part] = choice
