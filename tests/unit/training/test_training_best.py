"""The best state is kept, and come back to where training goes astray."""

import errno
import io
import math
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.training import BestState, Recipe, train
from compressc.training import best as best_module
from tests.unit.training.training_problems import (
    dropout_model,
    error,
    lesson_of,
    linear_problem,
    state_bytes,
)


@pytest.fixture
def rates(monkeypatch):
    """The rate of every step that an optimizer makes."""
    found = []
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        found.extend({group["lr"] for group in self.param_groups})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return found


def test_the_best_state_is_kept_and_buffers_with_it():
    model = dropout_model()
    _, lesson = linear_problem()
    scores = iter([0.0, 5.0, 1.0, 2.0])
    states = []

    def validate(module):
        states.append(state_bytes(module))
        return next(scores)

    result = train(model, lesson_of(lesson.batches, error, validate), Recipe(3, 0.1))
    assert (result.best, result.best_epoch) == ((5.0,), 1)
    assert state_bytes(model) == states[1]
    assert states[3] != states[1]
    assert not model.training


def test_the_start_is_kept_where_training_makes_it_worse():
    model, lesson = linear_problem()
    before = state_bytes(model)
    scores = iter([1.0, 0.5, 1.0])  # equal is not better
    result = train(model, lesson_of(lesson.batches, error, lambda m: next(scores)), Recipe(2, 0.1))
    assert result.best_epoch == 0
    assert state_bytes(model) == before


def test_scores_are_compared_from_the_first_number_on():
    with closing(BestState(dict(nn.Linear(1, 1).named_parameters()))) as best:
        assert best.offer((0.9, -1.0), 1)
        assert not best.offer((0.8, 5.0), 2)
        assert best.offer((0.9, -0.5), 3)
        assert not best.offer((1.0, math.nan), 4)
        assert best.epoch == 3


@pytest.mark.parametrize("in_memory", [1 << 24, 10])
def test_a_state_comes_back_to_the_bit_from_memory_or_disk(monkeypatch, in_memory):
    monkeypatch.setattr(best_module, "IN_MEMORY", in_memory)
    module = dropout_model()
    module.register_buffer("narrow", torch.randn(3, 2).bfloat16().t())
    module.register_buffer("flags", torch.tensor([True, False]), persistent=False)
    module.register_buffer("empty", torch.empty(0))
    tensors = [*module.parameters(), *module.buffers()]
    want = [tensor.clone() for tensor in tensors]
    with closing(BestState(dict(enumerate(tensors)))) as best:
        best.restore()  # nothing was kept: nothing happens
        best.offer(1.0, 1)
        with torch.no_grad():
            for tensor in tensors:
                tensor.zero_()
        assert not best.offer(0.5, 2)
        best.restore()
    assert all(torch.equal(a, b) for a, b in zip(tensors, want, strict=True))
    assert not torch.equal(want[0], torch.zeros_like(want[0]))


def test_no_room_for_the_best_state_is_told_before_any_step(monkeypatch):
    class Full(io.BytesIO):
        def writelines(self, pieces):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(best_module.tempfile, "SpooledTemporaryFile", lambda max_size: Full())
    model, lesson = linear_problem()
    never = replace(lesson, terms=lambda module, batch: pytest.fail("a step was made"))
    with pytest.raises(CompresscError, match=r"CC600.*No space left.*TMPDIR"):
        train(model, never, Recipe(2, 0.1))


def test_divergence_goes_back_halves_the_rate_and_gives_up_after_four():
    model, lesson = linear_problem()
    calls = 0

    def loss(module, batch):
        nonlocal calls
        calls += 1
        return error(module, batch) * (math.nan if calls > 6 else 1.0)  # 4 steps an epoch

    result = train(model, lesson_of(lesson.batches, loss, lesson.validate), Recipe(9, 0.1))
    assert result.setbacks == (2, 3, 4, 5)
    assert result.diverged == 5
    assert calls == 6 + 4
    assert len(result.history) == 1
    with torch.no_grad():
        assert lesson.validate(model) == result.best[0]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_rate_that_is_too_high_is_halved_until_it_learns():
    # at rate 8 the weights overshoot what is wanted, 3 and -1, by far
    model, lesson = linear_problem()
    nn.init.constant_(model.weight, 2.0)
    rates = []
    model.weight.register_post_accumulate_grad_hook(lambda p: rates.append(float(p.detach())))
    result = train(model, lesson, Recipe(12, 8.0, weight_decay=0.0, warmup=0.0, clip=0.0))
    assert result.setbacks[0] == 1
    assert result.diverged is None
    assert result.best > result.start
    # behind the first setback the second epoch starts where the first one started
    assert rates[4] == rates[0] == 2.0


def test_one_bad_epoch_of_many_is_no_end():
    model, lesson = linear_problem()
    scores = iter([0.0, 10.0, 4.0, 11.0, 12.0])  # 4 is below the middle of 0 and 10
    states = []

    def validate(module):
        states.append(state_bytes(module))
        return next(scores)

    seen = []
    model.weight.register_post_accumulate_grad_hook(lambda p: seen.append(state_bytes(model)))
    result = train(model, lesson_of(lesson.batches, error, validate), Recipe(4, 0.1))
    assert (result.setbacks, result.best_epoch, result.diverged) == ((2,), 4, None)
    assert seen[8] == states[1]  # the third epoch began with the state of the first


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    model, lesson = linear_problem()

    def loss(module, batch):
        return module.weight.sum().sqrt()  # 0 at weight 0, with gradient inf

    result = train(model, lesson_of(lesson.batches, loss, lesson.validate), Recipe(2, 0.1))
    assert (result.setbacks, result.best_epoch) == ((1, 2), 0)
    assert model.weight.item() == 0.0


def test_nothing_finite_is_an_error():
    model, lesson = linear_problem()
    bad = lesson_of(lesson.batches, lambda m, b: error(m, b) * math.nan, lambda m: math.nan)
    with pytest.raises(CompresscError, match="CC502"):
        train(model, bad, Recipe(1, 0.1))


def test_a_bad_start_is_no_error_where_training_mends_it():
    model, lesson = linear_problem()
    scores = iter([math.nan, 1.0])
    result = train(model, lesson_of(lesson.batches, error, lambda m: next(scores)), Recipe(1, 0.1))
    assert result.best_epoch == 1


def test_behind_a_setback_the_schedule_goes_on_and_the_optimizer_begins_anew(rates):
    model, lesson = linear_problem()
    weights = []
    model.weight.register_post_accumulate_grad_hook(lambda p: weights.append(float(p.detach())))

    def loss(module, batch):
        size = 1e3 if len(rates) < 4 else 1.0  # a gradient that an old optimizer would remember
        if len(weights) == 4:
            weights.append(math.nan)
            return error(module, batch) * math.nan
        return error(module, batch) * size

    result = train(
        model,
        lesson_of(lesson.batches, loss, lesson.validate),
        Recipe(3, 0.2, weight_decay=0.0, warmup=0.0, clip=0.0),
    )
    assert result.setbacks == (2,)
    # steps 8 and on of 12, at half the rate: 0.1 * (1 + cos(pi 8 / 12)) / 2
    assert rates[4] == pytest.approx(0.025)
    # a first step of Adam is the rate times the sign of the gradient
    assert abs(weights[6] - weights[5]) == pytest.approx(0.025, rel=1e-3)


def test_what_keeps_half_of_the_gain_is_no_setback():
    model, lesson = linear_problem()
    scores = iter([0.0, 10.0, 5.1, 4.9])
    result = train(model, lesson_of(lesson.batches, error, lambda m: next(scores)), Recipe(3, 0.1))
    assert result.setbacks == (3,)


def test_a_start_that_was_hardly_better_is_no_reason_to_go_back():
    # a loss of 2.30 is that of a constant answer among ten, where new weights begin
    model, lesson = linear_problem()
    scores = iter([-2.30, -2.34, -2.52, -2.54, -1.0])
    result = train(model, lesson_of(lesson.batches, error, lambda m: next(scores)), Recipe(4, 0.1))
    assert (result.setbacks, result.best_epoch) == ((3,), 4)


def test_the_start_is_scored_with_the_statistics_it_came_with():
    model = dropout_model()
    model[1].running_mean.fill_(7.0)
    _, lesson = linear_problem()
    seen = []

    def validate(module):
        seen.append(float(module[1].running_mean[0]))
        return -float(len(seen))  # no epoch is better

    inputs = [lesson.batches.tensors[:1]]
    train(model, lesson_of(lesson.batches, error, validate, inputs), Recipe(1, 0.1))
    assert seen[0] == 7.0
    assert abs(seen[1]) < 3.0
    assert float(model[1].running_mean[0]) == 7.0
