"""hint: inner values."""

import pytest
import torch
from compressc_distill.objectives.hint import Hint

from compressc.distillation import Readings, Seen


def loss(ours, theirs):
    rows = torch.zeros(1, 1)
    sides = (Readings(rows, features=tuple(side)) for side in (ours, theirs))
    return Hint().mean(Seen(*sides))


def test_by_hand():
    # mse 1 over variance 4 (of -2 and 2), and a perfect second point: (1/4 + 0) / 2
    theirs = torch.tensor([[-2.0], [2.0]])
    perfect = torch.tensor([[1.0], [5.0]])
    assert loss([theirs + 1, perfect], [theirs, perfect]).item() == pytest.approx(0.125)


def test_the_gradient_by_hand():
    # d/ds of (s - t)^2 / (2 numbers * variance 4)
    theirs = torch.tensor([[-2.0], [2.0]])
    ours = (theirs + torch.tensor([[1.0], [-3.0]])).requires_grad_()
    (slope,) = torch.autograd.grad(loss([ours], [theirs]), ours)
    assert slope.flatten().tolist() == pytest.approx([2 * 1 / 8, 2 * -3 / 8])


def test_a_constant_teacher_feature_does_not_blow_up():
    assert torch.isfinite(loss([torch.ones(2, 2)], [torch.zeros(2, 2)]))
