"""Grids: which sizes are measured, what lies between them, and the steps of a curve."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressc.probe.grid import interpolated, step_of

NOISE = (0.0, 0.02, -0.02, 0.01, -0.01, 0.015, -0.005)


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.floats(0.1, 2.0)] * 4),
    st.integers(8, 64),
    st.integers(8, 128),
)
def test_a_product_of_sizes_is_met_exactly(factors, a, b):
    levels = [[8, 32, 64], [8, 16, 128]]
    p, q, r, s = factors

    def time(sizes):
        x, y = sizes
        return p + q * x + r * y + s * x * y

    known = {place: time(place) for place in product(*levels)}
    assert interpolated(levels, known.__getitem__, (a, b)) == pytest.approx(time((a, b)))


def test_below_the_grid_the_line_goes_on_but_not_below_nothing():
    known = {(8,): 1.0, (16,): 3.0}
    assert interpolated([[8, 16]], known.__getitem__, (6,)) == pytest.approx(0.5)
    assert interpolated([[8, 16]], known.__getitem__, (1,)) == 0.0
    assert interpolated([[5]], {(5,): 2.0}.__getitem__, (3,)) == 2.0


def noisy(curve, count=32):
    return [curve(n) * (1 + NOISE[n % len(NOISE)]) for n in range(1, count + 1)]


@pytest.mark.parametrize("step", [2, 4, 8, 16])
def test_a_stair_has_its_step(step):
    assert step_of(noisy(lambda n: 1.0 + -(-n // step) * step / 16)) == step


@pytest.mark.parametrize(
    "curve",
    [lambda n: 1.0 + n / 16, lambda n: 1.0, lambda n: 2.0 - n / 32],
    ids=["line", "flat", "falling"],
)
def test_what_is_no_stair_has_none(curve):
    assert step_of(noisy(curve)) == 1
