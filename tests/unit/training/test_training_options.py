"""Options of the engine against what they mean: by hand, or by the same thing done otherwise."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressc.training import (
    Checkpoints,
    Hooks,
    Lesson,
    Recipe,
    TensorBatches,
    channels_last_for,
    fast_precision,
    likes_channels_last,
    parse_budget,
    precision_for,
    train,
)
from compressc.training import loop as module_under_test
from compressc.training.length import steps_within
from compressc.training.machine import InBfloat16, channels_last

PLAIN = Recipe(epochs=2, learning_rate=0.1, weight_decay=0.0, warmup=0.0, clip=0.0)


def line(batch=16):
    """y = 3x - 1, and a model that starts at 0."""
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    y = 3 * x - 1
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    lesson = Lesson(
        TensorBatches([x, y], batch),
        lambda module, batch: {"error": (module(batch[0]) - batch[1]).pow(2).mean()},
        lambda module: -float((module(x) - y).pow(2).mean()),
    )
    return model, lesson


class Steps(Hooks):
    """Weights after each step."""

    def __init__(self, model):
        self.model, self.weights, self.moments = model, [], []

    def stepped(self, moment):
        self.weights.append(self.model.weight.item())
        self.moments.append(moment)


def weights_of(recipe, batch=16):
    model, lesson = line(batch)
    watch = Steps(model)
    result = train(model, lesson, recipe, hooks=[watch])
    return watch.weights, result, model


def test_two_batches_in_a_step_are_one_of_twice_the_size():
    one, result, _ = weights_of(PLAIN, 16)
    two, other, _ = weights_of(replace(PLAIN, accumulate=2), 8)
    assert two == pytest.approx(one, rel=1e-5)
    assert other.history[0].loss == pytest.approx(result.history[0].loss, rel=1e-5)


def test_the_last_step_of_an_epoch_may_have_fewer_batches():
    model, lesson = line(8)  # 8 batches: 3 + 3 + 2
    watch = Steps(model)
    train(model, lesson, replace(PLAIN, accumulate=3), hooks=[watch])
    assert [moment.step for moment in watch.moments] == [1, 2, 3, 4, 5, 6]
    assert watch.moments[-1].steps == 6


def test_sgd_by_hand():
    # d/dw of mean (wx + b - 3x + 1)^2 at 0: -6 mean(x^2), on all 64 points in one batch
    recipe = replace(PLAIN, epochs=1, optimizer="sgd", momentum=0.0)
    weights, _, _ = weights_of(recipe, 64)
    x = torch.linspace(-1, 1, 64)
    assert weights == pytest.approx([0.1 * 6 * float(x.pow(2).mean())], rel=1e-5)


def test_the_momentum_of_sgd_counts():
    recipe = replace(PLAIN, optimizer="sgd")
    without, _, _ = weights_of(replace(recipe, momentum=0.0))
    with_it, _, _ = weights_of(recipe)
    assert with_it[0] == without[0]
    assert with_it[1] > without[1]


def test_the_average_is_judged_and_kept():
    model, lesson = line()
    judged = []

    def validate(module):
        judged.append(module.weight.item())
        return float(len(judged))

    watch = Steps(model)
    train(model, replace(lesson, validate=validate), replace(PLAIN, ema=0.5), hooks=[watch])
    average, want = 0.0, [0.0]
    for step, weight in enumerate(watch.weights, 1):
        stays = min(0.5, (1 + step) / (10 + step))
        average = stays * average + (1 - stays) * weight
        if step % 4 == 0:
            want.append(average)
    assert judged == pytest.approx(want, rel=1e-5)
    assert model.weight.item() == judged[-1]
    plain, _, _ = weights_of(PLAIN)
    assert watch.weights == plain  # the steps go on from the last weights


def test_statistics_of_the_average_are_not_those_of_the_steps():
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    seen = []

    class Watch(Hooks):
        def stepped(self, moment):
            seen.append(net[1].num_batches_tracked.item())

    lesson = Lesson(
        TensorBatches([x], 16),
        lambda module, batch: {"error": module(batch[0]).pow(2).mean()},
        lambda module: 0.0,
        [(x,)],
    )
    train(net, lesson, replace(PLAIN, ema=0.9), hooks=[Watch()])
    assert seen == list(range(1, 9))  # what the validation takes anew is put back


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (4, 1), (5, 2), (11, 3)])
def test_a_run_of_so_many_steps(steps, epochs):
    model, lesson = line()  # 4 steps an epoch
    watch = Steps(model)
    result = train(model, lesson, replace(PLAIN, steps=steps), hooks=[watch])
    assert len(watch.moments) == steps
    assert (watch.moments[-1].step, watch.moments[-1].steps) == (steps, steps)
    assert (watch.moments[-1].epoch, watch.moments[-1].epochs) == (epochs, epochs)
    assert len(result.history) == epochs


def test_whole_epochs_are_so_many_steps():
    assert weights_of(replace(PLAIN, steps=8))[0] == weights_of(PLAIN)[0]


@pytest.mark.parametrize(
    ("budget", "want"),
    [
        (100.0, 18),  # two epochs of 8 steps and 2 take 2 * (40 + 2); 16 left: (16 - 2) / 5 = 2.8
        (42.0, 8),
        (1.0, 1),  # at least one
    ],
)
def test_steps_that_fit_into_a_time(budget, want):
    assert steps_within(budget, 5.0, 2.0, 8) == want


@pytest.mark.parametrize(
    ("text", "want"), [("90s", 90.0), ("10min", 600.0), ("1.5h", 5400.0), (" 2 min ", 120.0)]
)
def test_times_are_read(text, want):
    assert parse_budget(text) == want


@pytest.mark.parametrize("text", ["10", "min", "0s", "-1s", "1d", "ten"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="a time is written"):
        parse_budget(text)


def test_a_budget_is_a_number_of_steps_once_the_pace_is_known(monkeypatch, tmp_path):
    now = [0.0]
    model, lesson = line()

    def terms(module, batch):
        now[0] += 5.0
        return lesson.terms(module, batch)

    def validate(module):
        now[0] += 2.0
        return lesson.validate(module)

    class Dies(Hooks):
        def stepped(self, moment):
            if moment.step == 6:
                raise KeyboardInterrupt

    monkeypatch.setattr(module_under_test.time, "perf_counter", lambda: now[0])
    slow = replace(lesson, terms=terms, validate=validate)
    recipe = replace(PLAIN, budget=122.0)
    kept = Checkpoints(tmp_path, seconds=0.0)
    watch = Steps(model)
    with pytest.raises(KeyboardInterrupt):
        train(model, slow, recipe, hooks=[watch, Dies()], checkpoints=kept)
    # 2 + 4 trials of 5 are gone (an epoch has no more): 100 left, 4 * 22 = 88, then (12 - 2) / 5
    assert watch.moments[0].steps == 4 * 4 + 2
    model, again = line()
    watch, slower = Steps(model), replace(slow, terms=lambda *a: pytest.fail("no pace is taken"))
    slower = replace(again, validate=validate)
    train(model, slower, recipe, hooks=[watch], checkpoints=Checkpoints(tmp_path))
    assert watch.moments[0].steps == 18  # on another machine: it goes on as it was planned
    assert watch.weights == weights_of(replace(PLAIN, steps=18))[0][5:]


def conv():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(16, 4, 8, 8)
    layouts = []

    def terms(module, batch):
        out = module(batch[0])
        first = net[0].weight
        layouts.append(first.is_contiguous(memory_format=torch.channels_last))
        return {"error": out.pow(2).mean()}

    lesson = Lesson(
        TensorBatches([x], 8), terms, lambda module: -float(module(x).pow(2).mean()), [(x,)]
    )
    return net, lesson, layouts


def test_filters_lie_channels_last_in_steps_alone():
    nets = []
    for wanted in (True, False):
        net, lesson, layouts = conv()
        train(net, lesson, replace(PLAIN, channels_last=wanted))
        assert set(layouts) == {wanted}
        assert net[0].weight.is_contiguous()
        nets.append(net)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_behind_a_filter_of_one_channel_images_lie_channels_last_too(kernel):
    net = nn.Conv2d(1, 8, kernel)
    x, layouts = torch.randn(2, 1, 8, 8), []
    for wanted in (True, False):
        with channels_last({"model": net}, wanted):
            layouts.append(net(x).is_contiguous(memory_format=torch.channels_last))
    assert layouts == [True, False]
    assert net.weight.stride() == nn.Conv2d(1, 8, kernel).weight.stride()


class ReadsMemory(nn.Module):
    """Has an op that takes the order of memory for that of the numbers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x):
        return self.conv(x).as_strided((len(x), 4), (64, 1))


class Views(ReadsMemory):
    """Has an op that wants one order."""

    def forward(self, x):
        return self.conv(x).view(len(x), -1)


@pytest.mark.parametrize(
    ("net", "want", "why"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), True, ""),
        (nn.Flatten(), False, ""),
        (ReadsMemory(), False, "outputs differ"),
        (Views(), False, "view"),
    ],
)
def test_a_net_is_trained_channels_last_where_it_answers_as_before(monkeypatch, net, want, why):
    cpu = torch.device("cpu")
    x = torch.randn(2, 2, 6, 6)
    found, told = channels_last_for(net.eval(), (x,))
    assert found == (want and likes_channels_last(cpu))
    assert why in told if likes_channels_last(cpu) else not told
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert channels_last_for(net, (x,)) == (False, "")


def test_bfloat16_is_for_the_module_alone():
    net, lesson, _ = conv()
    seen, moved = [], set()
    net[0].register_forward_hook(lambda module, args, out: seen.append((net.training, out.dtype)))

    def terms(module, batch):
        out = module(batch[0])
        assert out.dtype == torch.float32
        moved.add(net[0].weight.sum().item())
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        return {"error": out.pow(2).mean()}

    train(net, replace(lesson, terms=terms), replace(PLAIN, precision="bfloat16"))
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert len(moved) > 1


def test_bfloat16_gives_the_same_bytes_each_time():
    def run():
        net, lesson, _ = conv()
        train(net, lesson, replace(PLAIN, precision="bfloat16", channels_last=True))
        return [p.detach().clone() for p in net.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize(
    ("units", "want"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_the_processor_says_which_precision_is_fast(monkeypatch, units, want):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert fast_precision(torch.device("cpu")) == want
    net = nn.Linear(4, 4)
    assert precision_for(net, (torch.ones(1, 4),)) == (want, "")
    assert precision_for(net.double(), (torch.ones(1, 4).double(),)) == ("float32", "")


class Strict(nn.Module):
    """Has an op that does not mix dtypes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.index_put(torch.zeros_like(x), (torch.tensor([0]),), self.fc(x))


def test_a_net_that_does_not_run_in_it_stays_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    precision, why = precision_for(Strict(), (torch.ones(1, 4),))
    assert precision == "float32"
    assert "dtype" in why


def test_outputs_of_any_form_come_out_in_float32():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x @ x, "b": [x.argmax(), math.pi]}

    found = InBfloat16(Two())(torch.eye(3))
    assert found["a"].dtype == torch.float32
    assert found["b"][0].dtype == torch.int64
    assert found["b"][1] == math.pi
