"""How many choices errors of a size turn, against draws of such errors."""

from __future__ import annotations

import pytest
import torch

from compressc.tasks import Response, agreement, turned_by


def response(kind, dim=1):
    return Response(0, "y", kind, dim, "", kind, dim)


@pytest.mark.parametrize("error", [0.02, 0.3])
@pytest.mark.parametrize(
    ("kind", "dim", "shape"),
    [("class_scores", 1, (20000, 2)), ("independent_scores", None, (20000, 3))],
)
def test_as_many_as_draws_turn(kind, dim, shape, error):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(shape, generator=generator)
    drawn = output + error * torch.randn(shape, generator=generator)
    told = response(kind, dim)
    share = turned_by(told, output, error)
    assert share == pytest.approx(1 - agreement(told, drawn, output), rel=0.1)


def test_of_many_classes_the_two_best_count():
    """Classes far below them turn nothing, and those that are masked are no numbers."""
    near = torch.tensor([[1.0, 1.1, -9.0, -float("inf")]]).repeat(4, 1)
    wanted = torch.distributions.Normal(0, 1).cdf(torch.tensor(-0.1 / (2**0.5 * 0.05)))
    found = turned_by(response("class_scores"), near, 0.05)
    assert found == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("error", [0.0, float("inf"), float("nan")])
def test_nothing_is_turned_by_no_error_or_by_one_without_size(error):
    assert turned_by(response("class_scores"), torch.zeros(4, 3), error) == 0.0


def test_integers_are_not_turned():
    assert turned_by(response("ids", None), torch.zeros(4, dtype=torch.long), 1.0) == 0.0
