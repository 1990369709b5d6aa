"""The training loop on problems whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressc.training import Group, Hooks, Lesson, Recipe, TensorBatches, train
from compressc.training.rate import relative_rate
from tests.unit.training.training_problems import (
    dropout_model,
    error,
    lesson_of,
    linear_problem,
    named,
    state_bytes,
)


def test_it_learns_a_line():
    model, lesson = linear_problem()
    result = train(model, lesson, Recipe(epochs=40, learning_rate=0.3, weight_decay=0.0))
    assert model.weight.item() == pytest.approx(3, abs=0.02)
    assert model.bias.item() == pytest.approx(-1, abs=0.02)
    assert result.best > result.start
    assert len(result.history) == 40
    assert result.diverged is None


def test_the_first_step_is_adamw_by_hand():
    # Adam's first step is lr * sign(gradient): up for w, down for b
    model, lesson = linear_problem()
    lesson = lesson_of(TensorBatches(lesson.batches.tensors, 64), error, lesson.validate)
    train(model, lesson, Recipe(epochs=1, learning_rate=0.25, weight_decay=0.0, warmup=0.0))
    assert model.weight.item() == pytest.approx(0.25, abs=1e-6)
    assert model.bias.item() == pytest.approx(-0.25, abs=1e-6)


def test_weight_decay_is_for_matrices_only():
    # loss without gradient: w <- w * (1 - lr * decay) at the peak of a one-step run; b untouched
    model, lesson = linear_problem()
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    flat = lesson_of(
        TensorBatches(lesson.batches.tensors, 64),
        lambda m, b: 0.0 * m(b[0]).sum(),
        lambda m: -m.weight.item(),
    )
    train(model, flat, Recipe(epochs=1, learning_rate=0.1, weight_decay=0.5, warmup=0.0))
    assert model.weight.item() == pytest.approx(1 - 0.1 * 0.5)
    assert model.bias.item() == 1.0


def test_clipping_bounds_the_gradient_norm():
    model, lesson = linear_problem()
    seen = []
    model.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    norms = []
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat(gradients).norm()))
        return original(self, *args, **kwargs)

    torch.optim.AdamW.step = step
    try:
        train(model, lesson, Recipe(epochs=1, learning_rate=1e-6, clip=0.01))
        clipped = list(norms)
        norms.clear()
        train(model, lesson, Recipe(epochs=1, learning_rate=1e-6, clip=0.0))
    finally:
        torch.optim.AdamW.step = original
    assert max(clipped) <= 0.01 + 1e-6
    assert min(norms) > 0.5


def test_the_rate_is_a_hundredth_of_the_typical_weight():
    # root mean squares: 5 / sqrt(2), 0.2 and 40; the vectors do not count
    model, lesson = linear_problem()
    parts = ([[3.0, 4.0]], [[0.2], [-0.2]], [[40.0]], [1000.0, 1000.0])
    parameters = [nn.Parameter(torch.tensor(part)) for part in parts]
    assert relative_rate(parameters) == pytest.approx(0.01 * 5 / math.sqrt(2))
    nn.init.constant_(model.weight, -0.5)
    result = train(model, lesson, Recipe(1, None))
    assert result.rate == pytest.approx(0.005)


@pytest.mark.parametrize("weights", [[], [[[0.0, 0.0]]], [[[math.nan, 1.0]]], [[2.0, 2.0]]])
def test_weights_that_tell_nothing_give_a_plain_rate(weights):
    assert relative_rate([nn.Parameter(torch.tensor(w)) for w in weights]) == 1e-3


def test_a_rate_by_the_weights_learns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    _, lesson = linear_problem()
    result = train(model, lesson, Recipe(40, None))
    assert result.best[0] > 0.25 * result.start[0]


@pytest.mark.parametrize(("dropout", "statistics"), [(True, True), (False, True), (True, False)])
def test_what_is_to_rest_rests_in_steps(dropout, statistics):
    model = dropout_model()
    _, lesson = linear_problem()
    remembered = model[1].running_mean.clone() + 1
    model[1].running_mean.copy_(remembered)
    modes = set()

    def loss(module, batch):
        modes.add((module[0].training, module[1].training, module[2].training))
        return error(module, batch)

    seen = [(torch.linspace(-1, 1, 64).unsqueeze(1),)]
    scores = iter([0.0, 1.0])
    rested = lesson_of(lesson.batches, loss, lambda m: next(scores), seen)
    train(model, rested, Recipe(1, 0.01, dropout=dropout, batch_statistics=statistics))
    assert modes == {(True, statistics, dropout)}
    assert torch.equal(model[1].running_mean, remembered) != statistics


def test_same_seed_same_bytes_whatever_the_global_generator():
    def run(seed, disturb):
        model = dropout_model()
        _, lesson = linear_problem()
        torch.manual_seed(disturb)
        train(model, lesson, Recipe(3, 0.05, seed=seed))
        return state_bytes(model)

    assert run(1, disturb=0) == run(1, disturb=99)
    assert run(1, disturb=0) != run(2, disturb=0)


def test_every_step_has_a_dropout_of_its_own():
    model, lesson = linear_problem()
    masks = []

    def loss(module, batch):
        masks.append(tuple(nn.functional.dropout(torch.ones(64), 0.5).tolist()))
        return error(module, batch)

    train(model, replace(lesson, terms=named(loss)), Recipe(2, 1e-3))
    assert len(set(masks)) == len(masks) == 8


def test_the_global_generator_is_left_alone():
    model, lesson = linear_problem()
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    train(model, lesson, Recipe(1, 0.1))
    assert torch.equal(torch.rand(4), want)


def test_dropout_and_batch_norm_work_in_steps_and_rest_in_validation():
    model = dropout_model()
    _, lesson = linear_problem()
    seen = []

    def loss(module, batch):
        seen.append(("step", module.training, torch.is_grad_enabled()))
        return error(module, batch)

    def validate(module):
        seen.append(("validate", module.training, torch.is_grad_enabled()))
        return 0.0

    before = model[1].running_mean.clone()
    with torch.no_grad():  # a caller's no_grad must not stop the training
        train(model, lesson_of(lesson.batches, loss, validate), Recipe(1, 0.1))
    assert set(seen) == {("step", True, True), ("validate", False, False)}
    assert torch.equal(model[1].running_mean, before)  # epoch 1 was no better than the start


def test_groups_have_rates_and_decays_of_their_own():
    # a loss without gradient: decay alone moves a matrix, w <- w * (1 - lr * factor * decay)
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    for layer in model:
        nn.init.ones_(layer.weight)
    x = torch.ones(4, 1)
    lesson = Lesson(
        TensorBatches([x], 4),
        named(lambda module, batch: 0.0 * module(batch[0]).sum()),
        lambda module: -module[0].weight.item(),
        groups=[
            Group(list(model[0].parameters())),
            Group(list(model[1].parameters()), rate=0.5),
            Group(list(model[2].parameters()), weight_decay=0.25),
        ],
    )
    train(model, lesson, Recipe(1, 0.1, weight_decay=0.5, warmup=0.0))
    want = [1 - 0.1 * 0.5, 1 - 0.05 * 0.5, 1 - 0.1 * 0.25]
    assert [layer.weight.item() for layer in model] == pytest.approx(want)


def test_terms_are_weighted_summed_and_told_by_name():
    model, lesson = linear_problem()
    moments = []

    class Hears(Hooks):
        def stepped(self, moment):
            moments.append(moment)

    both = Lesson(
        TensorBatches(lesson.batches.tensors, 64),
        lambda m, b: {"near": error(m, b), "small": m.weight.pow(2).sum() + 1.0},
        lesson.validate,
        weights={"small": 0.5},
    )
    result = train(model, both, Recipe(1, 0.1), hooks=[Hears()])
    _, y = lesson.batches.tensors
    near = float(y.pow(2).mean())  # all weights are 0
    assert moments[0].terms == pytest.approx({"near": near, "small": 1.0})
    assert moments[0].loss == pytest.approx(near + 0.5)
    assert result.history[0].terms == moments[0].terms


def test_modules_beside_learn_along_and_come_back_from_the_best_epoch():
    model, lesson = linear_problem()
    scale = nn.Linear(1, 1, bias=False)
    scores, states = iter([0.0, 2.0, 1.0]), []

    def validate(module):
        states.append(scale.weight.item())
        assert not scale.training
        return next(scores)

    both = Lesson(
        lesson.batches,
        named(lambda m, b: (scale(m(b[0])) - b[1]).pow(2).mean()),
        validate,
        beside={"scale": scale},
    )
    train(model, both, Recipe(2, 0.1))
    assert len(set(states)) == 3
    assert scale.weight.item() == states[1]


def test_only_the_given_parameters_train_and_flags_come_back():
    model, lesson = linear_problem()
    model.bias.requires_grad_(False)
    model.weight.requires_grad_(False)
    train(model, replace(lesson, groups=[Group([model.weight])]), Recipe(3, 0.3))
    assert model.weight.item() != 0.0
    assert model.bias.item() == 0.0
    assert not model.weight.requires_grad
    assert model.weight.grad is None


def test_ctrl_c_passes_through_with_the_best_state_in_place():
    model, lesson = linear_problem()
    calls = 0

    def loss(module, batch):
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return error(module, batch)

    states = []

    def validate(module):
        states.append(state_bytes(module))
        return lesson.validate(module)

    with pytest.raises(KeyboardInterrupt):
        train(model, lesson_of(lesson.batches, loss, validate), Recipe(9, 0.1))
    assert state_bytes(model) == states[1]
    assert not model.training


def test_progress_counts_every_step():
    model, lesson = linear_problem()
    moments = []

    class Hears(Hooks):
        def stepped(self, moment):
            moments.append(moment)

        validated = stepped

    train(model, lesson, Recipe(2, 0.1), hooks=[Hears()])
    steps = [moment.step for moment in moments]
    assert steps == sorted(steps)
    assert (moments[-1].step, moments[-1].steps, moments[-1].epoch) == (8, 8, 2)


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


@pytest.mark.parametrize(
    ("warmup", "want"),
    [
        (0.0, [0.2, 0.1707107, 0.1, 0.0292893]),  # 0.2 * (1 + cos(pi k / 4)) / 2
        (0.5, [0.2 / 3, 0.4 / 3, 0.2, 0.1]),  # a third, two thirds, the peak, half a cosine
    ],
)
def test_every_step_runs_at_the_rate_of_the_schedule(rates, warmup, want):
    model, lesson = linear_problem()
    train(model, lesson, Recipe(1, 0.2, warmup=warmup))
    assert rates == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("seed", "same"), [(3, True), (4, False)])
def test_the_seed_decides_the_order(seed, same):
    def order(seed):
        model, lesson = linear_problem()
        seen = []

        def loss(module, batch):
            seen.extend(batch[0].flatten().tolist())
            return error(module, batch)

        train(model, replace(lesson, terms=named(loss)), Recipe(1, 1e-3, seed=seed))
        return seen

    assert (order(3) == order(seed)) == same


def test_every_epoch_has_an_order_of_its_own():
    model, lesson = linear_problem()
    seen = []

    def loss(module, batch):
        seen.extend(batch[0].flatten().tolist())
        return error(module, batch)

    train(model, replace(lesson, terms=named(loss)), Recipe(2, 1e-3))
    first, second = seen[:64], seen[64:]
    assert sorted(first) == sorted(second)
    assert first != second
