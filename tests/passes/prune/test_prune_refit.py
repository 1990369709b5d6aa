"""After a cut the layers that read it give what they gave, where what is left allows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressc_prune import Prune
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.pipeline import Pipeline
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import kept_of, pruned, relative

SAMPLES = 64


def data(*shape: int) -> Dataset:
    x = torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(1))
    part = Split((x,))
    return Dataset("made", part, part, part)


@torch.no_grad()
def twins(net: Mlp) -> None:
    """The second half of the hidden units is the first, half as large, and counts less."""
    for tensor in (net.up.weight, net.up.bias):
        tensor[4:] = 0.5 * tensor[:4]
    for layer in (net.down, net.beside):
        layer.weight[:, 4:] = -0.9 * layer.weight[:, :4]


def cut(module: nn.Module, *shape: int, **options: object) -> tuple[Graph, Graph, Dataset]:
    made = data(*shape)
    graph = export_graph(module.eval(), made.test.inputs[0][:5])
    after, context = pruned(graph, data=made, **{"refit": True, **options})
    cut.notes = context.notes  # type: ignore[attr-defined]
    return graph, after, made


@torch.no_grad()
def loss_of(graph: Graph, after: Graph, made: Dataset) -> float:
    x = made.test.inputs[0]
    return relative(lower(after)(x), lower(graph)(x))


class Mlp(nn.Module):
    """Two layers read one hidden width; one of them has no bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(4, 8)
        self.down, self.beside = nn.Linear(8, 3), nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.up(x))
        return self.down(hidden) * self.beside(hidden).sigmoid()


def test_units_that_others_stand_for_cost_nothing():
    for refit, most in ((True, 1e-3), (False, 9.0)):
        net = Mlp()
        twins(net)
        graph, after, made = cut(net, 4, ratio=0.5, refit=refit)
        assert kept_of(after, "up", 1) == [0, 1, 2, 3]
        error = loss_of(graph, after, made)
        assert error < most
        assert refit or error > 1e-2


class Cnn(nn.Module):
    """A depthwise convolution and norms between what is cut and what reads it; no biases there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.read = nn.Conv2d(8, 8, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depthwise(self.stem(x)))
        return self.head(self.norm2(self.read(F.max_pool2d(x, 2))).flatten(2).mean(2))


@torch.no_grad()
def test_through_what_does_not_mix_channels():
    """All of the lost channels are constant: the norm behind takes up what they brought."""
    net = Cnn()
    net.stem.weight[4:] = 0
    net.depthwise.weight[4:] = 0
    net.norm.bias[4:] = 2.0
    nn.init.uniform_(net.norm2.running_mean)
    graph, after, made = cut(net, 2, 8, 8, ratio=0.5, statistics=False)
    assert kept_of(after, "stem", 1) == [0, 1, 2, 3]
    own = kept_of(after, "read", 1)
    values = [lower(g, also=["norm2"])(made.test.inputs[0])[1][0] for g in (after, graph)]
    assert relative(values[0], values[1][:, own]) < 1e-3


@pytest.mark.parametrize("options", [{}, {"data": data(4), "refit": False}])
def test_nothing_is_refitted_without_data_or_where_it_is_switched_off(options):
    graph = export_graph(Mlp().eval(), torch.ones(5, 4))
    after, context = pruned(graph, ratio=0.5, **options)
    own = kept_of(after, "up", 1)
    assert torch.equal(after["down"].layer.weight, graph["down"].layer.weight[:, own])
    assert not any("refit" in text for _, text in context.notes)


@torch.no_grad()
def test_by_itself_it_refits_behind_a_large_ridge():
    """argmin |Y - X W' - b|^2 + ridge * mean of diag(X'X) * |W - near|^2, around the means."""
    net = Mlp()
    twins(net)
    graph, after, made = cut(net, 4, ratio=0.5, refit="auto")
    own = kept_of(after, "up", 1)
    x = made.calibration.inputs[0].double()
    hidden = F.relu(x @ net.up.weight.double().T + net.up.bias.double()).numpy()
    near = net.down.weight.double().numpy()
    left = hidden[:, own] - hidden[:, own].mean(0)
    target = hidden @ near.T
    target -= target.mean(0)
    moments, near = left.T @ left, near[:, own]
    wanted = [
        near + np.linalg.solve(moments + level * np.eye(4), left.T @ target - moments @ near.T).T
        for level in np.array([10, 100]) * np.diag(moments).mean()
    ]
    got = after["down"].layer.weight.numpy()
    assert min(np.abs(got - weight).max() for weight in wanted) < 1e-5
    assert np.abs(got - near).max() > 1e-4
    others = [loss_of(*cut(net, 4, ratio=0.5, refit=refit)) for refit in (True, False)]
    assert others[0] < loss_of(graph, after, made) < others[1]


def test_refit_needs_data():
    graph = export_graph(Mlp().eval(), torch.ones(5, 4))
    with pytest.raises(CompresscError, match="CC105"):
        Pipeline([Prune(refit=True)]).run(graph)


def test_a_shared_weight_is_left_as_it_was_cut():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.other, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            first = self.down(self.up(x).relu()).relu()
            return first + F.linear(self.other(x).relu(), self.down.weight)

    graph, after, _ = cut(Shared(), 4, ratio=0.5)
    own = kept_of(after, "up", 1)
    assert torch.equal(after["down"].layer.weight, graph["down"].layer.weight[:, own])
    assert any("not refitted" in text for _, text in cut.notes)


def test_a_residual_stream_makes_up_for_earlier_layers():
    """The second branch can give what the first one lost: both read the same input."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up1, self.down1 = nn.Linear(4, 8), nn.Linear(8, 4)
            self.up2, self.down2 = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = x + self.down1(self.up1(x).relu())
            return y + self.down2(self.up2(x).relu())

    graph, after, made = cut(Residual(), 4, ratio=0.5)
    refitted = loss_of(graph, after, made)
    graph, after, made = cut(Residual(), 4, ratio=0.5, refit=False)
    assert refitted < loss_of(graph, after, made) / 2


def test_a_transposed_convolution_stays_and_is_said():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 2, 2))
    _, after, _ = cut(net, 2, 6, 6, ratio=0.5, round_to=1)
    assert after["2"].layer.weight.shape[0] == 8
    assert ("2", "not refitted: a transposed convolution") in cut.notes
