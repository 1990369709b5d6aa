"""Least squares on a stream of rows, in double precision: normal equations with a ridge.

What is fitted stays near weights that are there already: with few rows, or along directions that
the data do not know, those are what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Ridges that are tried, as shares of the mean square of a column.
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: The largest ridge is taken whose error is within this share of the best one: weights that are
#: hardly better and twice as large are worse to train on and to round.
SLACK = 0.1


@dataclass(frozen=True)
class Fit:
    """Weights and what they are worth.

    Attributes:
        weight: f64[out, in].
        intercept: f64[out]; zeros where there is to be none.
        ridge: that was best, or None where the weights that were there are.
        before, after: squared error on rows held out over the variance of the targets, of the
            weights that were there with the best intercept, and of these.
    """

    weight: Tensor
    intercept: Tensor
    ridge: float | None
    before: float
    after: float


class NormalEquations:
    """Sums of products of rows `x [n, in]` and targets `y [n, out]`, in float64."""

    def __init__(self, columns: int, targets: int) -> None:
        self.count = 0
        self.x, self.y = _zeros(columns), _zeros(targets)
        self.xx, self.xy, self.yy = _zeros(columns, columns), _zeros(columns, targets), 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in some rows."""
        wide, wanted = x.double(), y.double()
        self.count += len(wide)
        self.x += wide.sum(0)
        self.y += wanted.sum(0)
        self.xx.addmm_(wide.T, wide)
        self.xy.addmm_(wide.T, wanted)
        self.yy += float(wanted.square().sum())

    def __iadd__(self, other: NormalEquations) -> NormalEquations:
        self.count += other.count
        self.yy += other.yy
        for name in ("x", "y", "xx", "xy"):
            getattr(self, name).add_(getattr(other, name))
        return self

    def solve(self, near: Tensor, ridge: float, *, intercept: bool) -> tuple[Tensor, Tensor]:
        """argmin |Y - X W' - b|^2 + ridge * mean square of X * n * |W - near|^2.

        Args:
            near: f64[out, in].
            ridge: at least 0.
            intercept: whether there is a b.

        Returns:
            W f64[out, in] and b f64[out].

        Raises:
            RuntimeError: where the equations have no one solution.
        """
        xx, rest = self.xx.clone(), self.xy.clone()  # the one square matrix besides the sums
        if intercept:
            share = 1 / max(1, self.count)
            xx.addr_(self.x, self.x, alpha=-share)
            rest.addr_(self.x, self.y, alpha=-share)
        rest.addmm_(xx, near.T, alpha=-1)
        xx.diagonal().add_(ridge * float(xx.diagonal().mean()))
        weight = near + torch.cholesky_solve(rest, torch.linalg.cholesky(xx, out=xx)).T
        return weight, self.intercept(weight, wanted=intercept)

    def intercept(self, weight: Tensor, *, wanted: bool = True) -> Tensor:
        """The best b for some weights, f64[out]."""
        if not wanted:
            return torch.zeros_like(self.y)
        return (self.y - weight @ self.x) / max(1, self.count)

    def error(self, weight: Tensor, intercept: Tensor) -> float:
        """Squared error over the squares of the targets around their mean; 1 for their mean."""
        n, product = self.count, weight @ self.x
        squares = self.yy - 2 * float((weight.T * self.xy).sum())
        squares += float(((weight @ self.xx) * weight).sum())
        squares += float((intercept * (n * intercept + 2 * (product - self.y))).sum())
        spread = self.yy - float(self.y.square().sum()) / max(1, n)
        return max(squares, 0.0) / max(spread, 1e-12)


def fit(
    learned: NormalEquations,
    held: NormalEquations,
    near: Tensor,
    *,
    intercept: bool,
    ridges: Sequence[float] = RIDGES,
) -> Fit:
    """The weights of the ridge that does best on rows held out, fitted to all rows.

    Args:
        learned: rows to fit to; takes in those of `held` at the end.
        held: other rows, to choose the ridge by.
        near: the weights that are there, f64[out, in]; kept where nothing does better.
        intercept: whether there is to be one.
        ridges: to try.
    """
    plain = learned.intercept(near, wanted=intercept)
    before = held.error(near, plain)
    errors: dict[float, float] = {}
    for ridge in ridges:
        try:
            errors[ridge] = held.error(*learned.solve(near, ridge, intercept=intercept))
        except RuntimeError:  # `LinAlgError`: no one solution
            continue
    best = min([before, *errors.values()])
    good = [ridge for ridge, error in errors.items() if error <= best * (1 + SLACK) < before]
    chosen = max(good, default=None)
    after = before if chosen is None else errors[chosen]
    learned += held
    weight = near
    if chosen is not None:
        weight, _ = learned.solve(near, chosen, intercept=intercept)
    return Fit(weight, learned.intercept(weight, wanted=intercept), chosen, before, after)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
