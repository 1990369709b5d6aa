"""Choosing among menus: within the budget, against all combinations; hulls by definition."""

from __future__ import annotations

from itertools import pairwise, product

from hypothesis import given, settings
from hypothesis import strategies as st

from compressc.pipeline import Choice, choose, lower_hull


def menus(draw) -> dict[str, list[Choice]]:
    found = {}
    for layer in "abc":
        dense = draw(st.integers(10, 40))
        sizes = draw(st.lists(st.integers(1, dense - 1), min_size=1, max_size=5, unique=True))
        lost = sorted(draw(st.lists(st.floats(0.01, 1), min_size=5, max_size=5)))
        cheaper = zip(sorted(sizes, reverse=True), lost, strict=False)
        found[layer] = [Choice(None, dense, 0.0), *(Choice(None, c, x) for c, x in cheaper)]
    return found


@settings(max_examples=60, deadline=None)
@given(drawn=st.data())
def test_no_other_choice_is_much_better(drawn):
    """Against all combinations: within the budget, and no further off than one step of the hull."""
    found = menus(drawn.draw)
    most = drawn.draw(st.integers(3, 100))
    chosen = choose(found, most)
    legal = [
        combination
        for combination in product(*found.values())
        if sum(choice.cost for choice in combination) <= most
    ]
    if not legal:
        assert chosen is None
        return
    assert chosen is not None
    assert sum(choice.cost for choice in chosen.values()) <= most
    best = min(sum(choice.lost for choice in combination) for combination in legal)
    largest = max(choice.lost for menu in found.values() for choice in menu)
    assert sum(choice.lost for choice in chosen.values()) <= best + largest + 1e-9


def test_a_choice_that_costs_nothing_is_made_first():
    menu = {"a": [Choice(None, 10, 0.0), Choice(None, 6, 0.0)], "b": [Choice(None, 10, 0.0)]}
    chosen = choose(menu, 16)
    assert chosen is not None
    assert chosen["a"].cost == 6


def test_what_costs_more_and_loses_no_less_is_never_taken():
    """A cut that is slower than none, as odd widths can be."""
    menu = {"a": [Choice("whole", 10, 0.0), Choice("odd", 12, 0.1), Choice("half", 4, 0.5)]}
    chosen = choose(menu, 11)
    assert chosen is not None
    assert chosen["a"].pick == "whole"
    assert choose(menu, 9)["a"].pick == "half"
    assert choose({"a": menu["a"][:2]}, 9) is None


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_a_hull_is_convex_and_below_every_point(points):
    hull = lower_hull(points, lambda point: point)
    assert set(hull) <= set(points)
    assert (hull[0][0], hull[-1][0]) == (min(x for x, _ in points), max(x for x, _ in points))
    slopes = [(d - b) / (c - a) for (a, b), (c, d) in pairwise(hull)]
    assert slopes == sorted(set(slopes))
    for x, y in points:
        for (a, b), (c, d) in pairwise(hull):
            if a <= x <= c:
                assert y >= b + (d - b) * (x - a) / (c - a) - 1e-9
