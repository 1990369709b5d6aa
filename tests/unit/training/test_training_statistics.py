"""Statistics of batch norms, against those of the values taken by hand."""

import copy

import pytest
import torch
from torch import nn

from compressc.data import Dataset, Split
from compressc.pipeline import Context
from compressc.testing import export_graph
from compressc.training import Lesson, Recipe, TensorBatches, reestimate, reestimate_behind, train
from compressc.training import statistics as module_under_test


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
    assert reestimate(model, (x,)) == 2
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
    monkeypatch.setattr(module_under_test, "NUMBERS", 1)  # 70 samples, 32 at the most: 24, 23, 23
    reestimate(model, (x,))
    mean, variance = by_channel(model[0](x))
    assert torch.allclose(model[1].running_mean.double(), mean, atol=1e-4)
    assert torch.allclose(model[1].running_var.double(), variance, rtol=1e-5)


def test_nothing_else_changes_and_nothing_is_left_to_chance():
    one, two, x = net(), net(), images()
    one[3].train()
    one[1].momentum = 0.25
    before = copy.deepcopy(one)
    torch.manual_seed(1)
    reestimate(one, (x,))
    torch.manual_seed(2)
    reestimate(two, (x,))
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
    assert reestimate(model, (images(),), only=[model[5]]) == 1
    assert torch.equal(model[1].running_mean, first)
    assert not torch.equal(model[5].running_mean, torch.zeros(4))


@pytest.mark.parametrize(("rows", "scale"), [(1, 1.0), (15, 1.0), (64, float("nan"))])
def test_too_little_to_go_by_leaves_a_norm_as_it_was(rows, scale):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    assert reestimate(model, (scale * torch.randn(rows, 3),)) == 0
    assert torch.equal(model[1].running_mean, torch.zeros(2))
    assert torch.equal(model[1].running_var, torch.ones(2))


def test_a_model_without_norms_is_not_even_run():
    class Unrunnable(nn.Module):
        def forward(self, x):
            raise AssertionError

    assert reestimate(Unrunnable(), (torch.zeros(4, 2),)) == 0


def test_after_a_cut_the_norms_behind_it_follow_the_calibration_part():
    x = images()
    graph = export_graph(net(), x[:4])
    norms = [op.name for op in graph if op.kind == "batch_norm2d"]
    second = [op.name for op in graph if op.kind == "conv2d"][1]
    first = graph[norms[0]].layer.running_mean.clone()
    part = Split((x,))
    ctx = Context(graph, Dataset("d", Split((x + 100,)), part, Split((x - 100,))))
    reestimate_behind(graph, [second], ctx)
    assert torch.equal(graph[norms[0]].layer.running_mean, first)
    model = net()
    mean, _ = by_channel(model[:5](x))  # the first norm still works with what it remembers
    assert torch.allclose(graph[norms[1]].layer.running_mean.double(), mean, atol=1e-5)
    assert ctx.notes == [(norms[1], "statistics taken anew from 70 samples")]
    assert graph.edits["set_layer"] == 1


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
        lambda m, b: (m(b[0]) - b[1]).pow(2).mean(),
        lambda m: -float((m(x) - x.sum(1, keepdim=True)).pow(2).mean()),
        (x,),
    )
    result = train(model, lesson, Recipe(3, 0.05))
    assert result.best_epoch
    seen = model[0](x).detach()
    assert torch.allclose(model[1].running_mean, seen.mean(0), atol=1e-5)
    assert torch.allclose(model[1].running_var, seen.var(0), rtol=1e-4)
