"""Zeros of sparse weights do not move in training; those of others do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compressc.training import Recipe, TensorBatches, train, zeros_of
from compressc.training.rate import relative_rate
from tests.unit.training.training_problems import error, lesson_of


def problem(weight: torch.Tensor) -> tuple[nn.Linear, object]:
    """y = 2 * sum of x, for a linear layer with these weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, weight.shape[1], generator=generator)
    y = (2 * x).sum(1, keepdim=True).expand(-1, weight.shape[0])
    model = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        model.weight.copy_(weight)

    def validate(module: nn.Module) -> float:
        return -float((module(x) - y).pow(2).mean())

    return model, lesson_of(TensorBatches([x, y], 16), error, validate)


HALF = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_zeros_of_a_sparse_weight_stay_zero_and_the_others_learn(optimizer):
    model, lesson = problem(HALF)
    recipe = Recipe(6, 0.05, optimizer=optimizer, ema=0.5, accumulate=2)
    result = train(model, lesson, recipe)
    assert result.best_epoch > 0
    assert torch.equal(model.weight == 0, HALF == 0)
    assert bool((model.weight != HALF)[HALF != 0].all())


def test_they_move_where_that_is_asked_for():
    model, lesson = problem(HALF)
    train(model, lesson, Recipe(6, 0.05, keep_zeros=False))
    assert bool((model.weight != 0).all())


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(2, 4),  # as the last layer of a residual block may begin
        torch.eye(24),  # as an identity does: 96 % zeros
        torch.cat([torch.zeros(1, 4), torch.ones(11, 4)]),  # a padding row
    ],
)
def test_weights_that_only_begin_with_zeros_learn(weight):
    model, lesson = problem(weight)
    assert not zeros_of(model.parameters())
    train(model, lesson, Recipe(3, 0.05))
    assert bool((model.weight != 0).all())


def test_the_rate_goes_by_the_weights_that_are_left():
    # root mean square of 3, 4, 3, 4; with the zeros it would be less
    parameter = nn.Parameter(torch.tensor([[3.0, 4.0, 3.0, 4.0, 0.0, 0.0]]))
    assert relative_rate([parameter]) == pytest.approx(0.01 * math.sqrt(12.5))
