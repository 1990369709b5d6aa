"""Statistics of batch norms, against those of the values taken by hand."""

import copy

import pytest
import torch
from torch import nn

from compressc.data import Dataset, Split
from compressc.pipeline import Context
from compressc.testing import export_graph
from compressc.training import (
    Lesson,
    Recipe,
    Spread,
    TensorBatches,
    reestimate,
    reestimate_behind,
    reestimate_on_trial,
    train,
)
from compressc.training import batches as module_under_test


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)),
    ).eval()


def images(count=70):
    return 3 + 2 * torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def by_channel(values):
    """Mean and unbiased variance of `[n, c, h, w]` for each channel, in float64."""
    flat = values.detach().double().transpose(0, 1).flatten(1)
    return flat.mean(1), flat.var(1)


def test_every_norm_knows_what_it_sees():
    model, x = net(), images()
    assert reestimate(model, [(x,)]) == 2
    before = model[0](x)
    mean, variance = by_channel(before)
    assert torch.allclose(model[1].running_mean.double(), mean, atol=1e-5)
    assert torch.allclose(model[1].running_var.double(), variance, rtol=1e-5)
    # the second one sees the first at work with its new statistics, dropout at rest
    hidden = (before - before.mean((0, 2, 3), keepdim=True)).div(
        (before.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    )
    mean, variance = by_channel(model[4](hidden.relu()))
    assert torch.allclose(model[5].running_mean.double(), mean, atol=1e-5)
    assert torch.allclose(model[5].running_var.double(), variance, rtol=1e-4)


def test_every_value_counts_once_whatever_the_batches(monkeypatch):
    model, x = net(), torch.cat([images(50), 10 * images(20)])  # no batch is like another
    monkeypatch.setattr(module_under_test, "NUMBERS", 1)
    batches = Spread(Split((x,)), 1000, torch.device("cpu"))
    assert [len(inputs[0]) for inputs in batches] == [24, 23, 23]  # 32 at the most
    assert reestimate(model, batches) == 2
    mean, variance = by_channel(model[0](x))
    assert torch.allclose(model[1].running_mean.double(), mean, atol=1e-4)
    assert torch.allclose(model[1].running_var.double(), variance, rtol=1e-5)


def test_a_spread_reads_few_samples_of_many_and_holds_none(monkeypatch):
    monkeypatch.setattr(module_under_test, "NUMBERS", 1)
    source = Split((torch.arange(1000.0)[:, None],))
    spread = Spread(source, 40, torch.device("cpu"))
    assert len(spread) == 40
    for _ in range(2):  # as often as wanted
        parts = [inputs[0] for inputs in spread]
        assert [len(part) for part in parts] == [20, 20]
        assert torch.cat(parts).flatten().tolist() == list(range(0, 1000, 25))
    assert list(Spread(source.subset(torch.arange(0)), 40, torch.device("cpu"))) == []


def test_nothing_else_changes_and_nothing_is_left_to_chance():
    one, two, x = net(), net(), images()
    one[3].train()
    one[1].momentum = 0.25
    before = copy.deepcopy(one)
    torch.manual_seed(1)
    reestimate(one, [(x,)])
    torch.manual_seed(2)
    reestimate(two, [(x,)])
    assert [part.training for part in one] == [part.training for part in before]
    assert one[1].momentum == 0.25
    for (name, now), then, other in zip(
        one.state_dict().items(),
        before.state_dict().values(),
        two.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(now, other), name
        assert torch.equal(now, then) != ("running" in name), name


def test_only_the_norms_that_are_named():
    model = net()
    first = model[1].running_mean.clone()
    assert reestimate(model, [(images(),)], only=[model[5]]) == 1
    assert torch.equal(model[1].running_mean, first)
    assert not torch.equal(model[5].running_mean, torch.zeros(4))


@pytest.mark.parametrize(("rows", "scale"), [(1, 1.0), (15, 1.0), (64, float("nan"))])
def test_too_little_to_go_by_leaves_a_norm_as_it_was(rows, scale):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    assert reestimate(model, [(scale * torch.randn(rows, 3),)]) == 0
    assert torch.equal(model[1].running_mean, torch.zeros(2))
    assert torch.equal(model[1].running_var, torch.ones(2))


def test_a_model_without_norms_is_not_even_run():
    class Unrunnable(nn.Module):
        def forward(self, x):
            raise AssertionError

    assert reestimate(Unrunnable(), (torch.zeros(4, 2),)) == 0


def cut_net(x):
    """A teacher whose norms know their data, and a student: the second convolution is another's."""
    model = net()
    reestimate(model, [(x,)])
    teacher, student = export_graph(model, x[:4]), export_graph(model, x[:4])
    second = [op.name for op in student if op.kind == "conv2d"][1]
    return teacher, student, second


def test_after_a_cut_the_norms_behind_it_follow_the_calibration_part():
    x = images()
    teacher, graph, second = cut_net(x)
    with torch.no_grad():  # other sizes, same directions: new statistics mend all of it
        graph[second].layer.weight.mul_(3.0)
        graph[second].layer.bias.add_(2.0)
    norms = [op.name for op in graph if op.kind == "batch_norm2d"]
    first = graph[norms[0]].layer.running_mean.clone()
    part = Split((x,))
    ctx = Context(teacher, Dataset("d", Split((x + 100,)), part, Split((x - 100,))))
    reestimate_behind(graph, [second], ctx)
    assert torch.equal(graph[norms[0]].layer.running_mean, first)
    mean, variance = (
        getattr(teacher[norms[1]].layer, f"running_{name}") for name in ("mean", "var")
    )
    bias = teacher[second].layer.bias
    want = 3 * (mean - bias) + bias + 2
    # not to the last digit: the teacher's second norm saw the first at work by its batches
    assert torch.allclose(graph[norms[1]].layer.running_mean, want, atol=1e-3)
    assert torch.allclose(graph[norms[1]].layer.running_var, 9 * variance, rtol=1e-3)
    assert ctx.notes == [(norms[1], "statistics taken anew from 70 samples")]
    assert graph.edits["set_layer"] == 1


def test_statistics_that_fit_worse_than_the_old_ones_are_not_taken():
    # the net knows its data; those at hand are others, and the cut took next to nothing
    teacher, graph, second = cut_net(images())
    with torch.no_grad():
        graph[second].layer.weight[0, 0].mul_(0.9)
    norm = [op.name for op in graph if op.kind == "batch_norm2d"][1]
    before = {name: value.clone() for name, value in graph[norm].layer.state_dict().items()}
    other = Split((0.2 * images() + 5,))
    ctx = Context(teacher, Dataset("d", other, other, other))
    reestimate_behind(graph, [second], ctx)
    assert all(torch.equal(before[k], v) for k, v in graph[norm].layer.state_dict().items())
    assert not graph.edits
    ((where, text),) = ctx.notes
    assert where == norm
    assert text.startswith("statistics kept: with those taken anew from 70 samples")


@pytest.mark.parametrize(
    ("errors", "keep", "taken"),
    [
        ((2.0, 1.0), True, True),
        ((1.0, 1.0), True, True),
        ((1.0, 1.1), True, False),
        ((1.0, float("nan")), True, False),
        ((float("nan"), 1.0), True, True),
        ((2.0, 1.0), False, False),
    ],
)
def test_a_trial_keeps_what_does_better(errors, keep, taken):
    model, left = net(), iter(errors)
    before = model[1].running_mean.clone()
    trial = reestimate_on_trial(model, [(images(),)], lambda: next(left), keep=keep)
    assert trial.count == 2
    assert torch.equal(model[1].running_mean, before) != taken
    assert int(model[1].num_batches_tracked) == int(net()[1].num_batches_tracked)


def test_without_data_it_is_said_that_norms_remember_the_uncut_net():
    graph = export_graph(net(), images(4))
    ctx = Context(graph)
    reestimate_behind(graph, [next(op.name for op in graph if op.kind == "conv2d")], ctx)
    ((where, text),) = ctx.notes
    assert "and 1 more" in where
    assert "give data" in text
    assert not graph.edits


def test_the_best_state_of_a_training_has_statistics_of_its_own_weights():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(96, 4)
    lesson = Lesson(
        TensorBatches([x, x.sum(1, keepdim=True)], 8),
        lambda m, b: {"error": (m(b[0]) - b[1]).pow(2).mean()},
        lambda m: -float((m(x) - x.sum(1, keepdim=True)).pow(2).mean()),
        [(x,)],
    )
    result = train(model, lesson, Recipe(3, 0.05))
    assert result.best_epoch
    seen = model[0](x).detach()
    assert torch.allclose(model[1].running_mean, seen.mean(0), atol=1e-5)
    assert torch.allclose(model[1].running_var, seen.var(0), rtol=1e-4)


@pytest.mark.parametrize("suits", [True, False])
def test_the_best_state_takes_statistics_from_more_samples_where_they_do_no_harm(suits):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(96, 4)
    more = x if suits else 5 + 3 * x
    wanted = x.sum(1, keepdim=True)
    lesson = Lesson(
        TensorBatches([x, wanted], 8),
        lambda m, b: {"error": (m(b[0]) - b[1]).pow(2).mean()},
        lambda m: -float((m(x) - wanted).pow(2).mean()),
        [(x[:20],)],
        seen_last=[(more[:50],), (more[50:],)],
    )
    result = train(model, lesson, Recipe(3, 0.05))
    assert result.best_epoch
    seen = model[0](x if suits else x[:20]).detach()
    assert torch.allclose(model[1].running_mean, seen.mean(0), atol=1e-5)
    assert torch.allclose(model[1].running_var, seen.var(0), rtol=1e-4)
    assert result.best[0] == lesson.validate(model.eval())
    assert (result.best[0] > result.history[result.best_epoch - 1].score[0]) == suits
