"""Streamed normal equations against `lstsq` on all rows at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compressc.training.least_squares import NormalEquations, fit

ROWS, COLUMNS, TARGETS = 40, 5, 3


def rows(seed: int = 0, count: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, COLUMNS, generator=generator, dtype=torch.float64) + 2
    y = x @ torch.arange(15.0, dtype=torch.float64).reshape(COLUMNS, TARGETS) / 15 - 1
    return x, y + torch.randn(count, TARGETS, generator=generator, dtype=torch.float64) / 4


def streamed(x: Tensor, y: Tensor, pieces: int = 3) -> NormalEquations:
    sums = NormalEquations(COLUMNS, TARGETS)
    for a, b in zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True):
        sums.add(a, b)
    return sums


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_solution_is_that_of_all_rows_at_once(intercept, ridge):
    """The ridge is written as further rows: sqrt(level) * (W - near) is to be 0."""
    x, y = rows()
    near = torch.randn(TARGETS, COLUMNS, dtype=torch.float64)
    about = x - x.mean(0) if intercept else x
    wanted = y - y.mean(0) if intercept else y
    level = ridge * about.square().sum(0).mean()
    more = level.sqrt() * torch.eye(COLUMNS, dtype=torch.float64)
    best = torch.linalg.lstsq(torch.cat([about, more]), torch.cat([wanted, more @ near.T])).solution
    weight, b = streamed(x, y).solve(near, ridge, intercept=intercept)
    assert torch.allclose(weight, best.T)
    assert torch.allclose(b, (y.mean(0) - best.T @ x.mean(0)) * intercept)


def test_error_is_that_of_the_rows():
    x, y = rows()
    weight = torch.randn(TARGETS, COLUMNS, dtype=torch.float64)
    b = torch.randn(TARGETS, dtype=torch.float64)
    left = (y - x @ weight.T - b).square().sum() / (y - y.mean(0)).square().sum()
    assert streamed(x, y).error(weight, b) == pytest.approx(float(left))


def test_sums_add_up():
    x, y = rows()
    both, near = streamed(x[:9], y[:9]), torch.zeros(TARGETS, COLUMNS)
    both += streamed(x[9:], y[9:])
    for got, want in zip(
        both.solve(near.double(), 0.1, intercept=True),
        streamed(x, y).solve(near.double(), 0.1, intercept=True),
        strict=True,
    ):
        assert torch.allclose(got, want)


def test_what_is_right_already_stays():
    x, _ = rows()
    truth = torch.randn(TARGETS, COLUMNS, dtype=torch.float64)
    made = fit(
        streamed(x, x @ truth.T + 3), streamed(x + 1, (x + 1) @ truth.T + 3), truth, intercept=True
    )
    assert torch.allclose(made.weight, truth)
    assert torch.allclose(made.intercept, torch.full((TARGETS,), 3.0, dtype=torch.float64))


def test_few_rows_do_not_spoil_weights():
    """Three rows of noise: rows held out say that the weights are better as they are."""
    truth = torch.ones(TARGETS, COLUMNS, dtype=torch.float64)
    x, _ = rows(1, 3)
    noise = 20 * torch.randn(3, TARGETS, dtype=torch.float64)
    held, _ = rows(2)
    made = fit(streamed(x, noise), streamed(held, held @ truth.T), truth, intercept=False)
    assert made.ridge is None
    assert torch.equal(made.weight, truth)
    assert made.after == made.before


def test_a_better_fit_is_taken_and_fitted_to_all_rows():
    x, y = rows()
    near = torch.zeros(TARGETS, COLUMNS, dtype=torch.float64)
    made = fit(streamed(x[:30], y[:30]), streamed(x[30:], y[30:]), near, intercept=True)
    assert made.ridge is not None
    assert made.after < 0.1 < made.before
    weight, b = streamed(x, y).solve(near, made.ridge, intercept=True)
    assert torch.allclose(made.weight, weight)
    assert torch.allclose(made.intercept, b)
