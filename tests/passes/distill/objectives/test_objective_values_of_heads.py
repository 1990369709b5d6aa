"""values: what every output is computed from."""

import pytest
import torch
from compressc_distill.objectives.values import Values

from compressc.distillation import Readings, Seen


def loss(ours, theirs, valid=None):
    rows = torch.zeros(len(ours[0]), 1)
    sides = (Readings(rows, heads=tuple(side)) for side in (ours, theirs))
    return Values().mean(Seen(*sides, valid=valid))


def by_definition(ours, theirs):
    total = 0.0
    for mine, its in zip(ours, theirs, strict=True):
        a, b = mine.flatten().tolist(), its.flatten().tolist()
        mean = sum(b) / len(b)
        variance = sum((x - mean) ** 2 for x in b) / len(b)
        total += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a) / variance
    return total / len(ours)


def test_value_and_gradient_by_its_definition():
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (3, 2, 2))
    ours, theirs = (
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(2)
    )
    assert loss(ours, theirs).item() == pytest.approx(by_definition(ours, theirs))
    ours[0].requires_grad_()
    (slope,) = torch.autograd.grad(loss(ours, theirs), ours[0])
    for place in ((0, 0), (2, 1)):
        sides = []
        for sign in (1, -1):
            moved = ours[0].detach().clone()
            moved[place] += sign * 1e-5
            sides.append(by_definition([moved, ours[1]], theirs))
        assert slope[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4)


def test_a_constant_guess_costs_1_whatever_the_unit():
    theirs = torch.randn(5, 3)
    guess = theirs.mean().expand(5, 3)
    for scale in (1.0, 1000.0):
        assert loss([scale * guess], [scale * theirs]).item() == pytest.approx(1, rel=1e-4)


def test_padding_does_not_count():
    valid = torch.tensor([[True, True, False], [True, False, False]])
    ours, theirs = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    known = loss([ours], [theirs], valid)
    ours[~valid] += 100
    theirs[~valid] -= 100
    assert loss([ours], [theirs], valid).item() == pytest.approx(known.item())
