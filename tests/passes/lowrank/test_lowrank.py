from __future__ import annotations

import pytest
import torch
from compressc_lowrank import LowRank
from torch import nn

from compressc.analysis import total_cost
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, run_graph
from compressc.spec import make
from compressc.testing import Checked, check_pass, export_graph


def decaying(out: int, in_: int, rate: float = 0.7) -> torch.Tensor:
    """A matrix whose singular values are 1, rate, rate^2, ..."""
    torch.manual_seed(out * 100 + in_)
    k = min(out, in_)
    left = torch.linalg.qr(torch.randn(out, out, dtype=torch.float64)).Q[:, :k]
    right = torch.linalg.qr(torch.randn(in_, in_, dtype=torch.float64)).Q[:k]
    values = rate ** torch.arange(k, dtype=torch.float64)
    return (left * values) @ right


def linear(out: int = 24, in_: int = 32, rate: float = 0.7, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(in_, out, bias=bias)
    layer.weight.data = decaying(out, in_, rate).float()
    return layer


def factorized(module: nn.Module, *shape: int, **options: object) -> tuple[Checked, Graph]:
    torch.manual_seed(0)
    graph = export_graph(module.eval(), torch.randn(4, *shape))
    checked = check_pass(LowRank(**options), graph)
    assert total_cost(checked.graph).parameters <= total_cost(graph).parameters
    return checked, graph


def product(graph: Graph, name: str) -> torch.Tensor:
    factors = [graph[n].layer.weight.detach().flatten(1).double() for n in (name, f"{name}.v")]
    return factors[0] @ factors[1]


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_energy_is_kept_and_bounds_the_error(energy):
    layer = linear()
    checked, _ = factorized(nn.Sequential(layer), 32, energy=energy)
    values = 0.7 ** torch.arange(24, dtype=torch.float64)
    shares = torch.cumsum(values**2, 0) / (values**2).sum()
    rank = int(torch.searchsorted(shares, torch.tensor(energy, dtype=torch.float64))) + 1
    assert checked.graph["0.v"].layer.out_features == rank
    error = (product(checked.graph, "0") - decaying(24, 32)).pow(2).sum()
    assert float(error / (values**2).sum()) == pytest.approx(1 - float(shares[rank - 1]), abs=1e-5)
    assert checked.notes["0"][0].startswith(
        f"rank {rank} of 24 keeps {float(shares[rank - 1]):.1%}"
    )


def test_the_rank_is_the_best_of_its_size():
    """Eckart and Young: the error of the layer is the next singular value."""
    checked, _ = factorized(nn.Sequential(linear()), 32, rank=4)
    error = product(checked.graph, "0") - decaying(24, 32)
    assert float(torch.linalg.matrix_norm(error, 2)) == pytest.approx(0.7**4, rel=1e-4)


def test_the_text():
    checked, _ = factorized(nn.Sequential(linear()), 5, 32, rank=3)
    assert [" ".join(line.split()) for line in str(checked.graph).splitlines()[1:3]] == [
        "%0.v = linear(%input) {in=32, out=3, bias=false} @0.v.weight : f32[b,5,3] # from 0",
        "%0 = linear(%0.v) {in=3, out=24} @0.weight @0.bias : f32[b,5,24] # from 0",
    ]


@pytest.mark.parametrize("bias", [True, False])
def test_a_matrix_of_low_rank_stays_what_it_is(bias):
    layer = linear(bias=bias)
    layer.weight.data = (decaying(24, 5, 0.9) @ decaying(5, 32, 0.9)).float()
    checked, graph = factorized(nn.Sequential(layer), 32, energy=0.999999, limit=1.0)
    x = torch.randn(6, 32)
    (want,), (got,) = (run_graph(g, (x,)) for g in (graph, checked.graph))
    assert float((got - want).abs().max() / want.pow(2).mean().sqrt()) < 1e-5
    assert checked.graph["0.v"].layer.out_features <= 5


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pointwise_convolution(stride):
    layer = nn.Conv2d(32, 24, 1, stride=stride)
    layer.weight.data = decaying(24, 32).float()[:, :, None, None]
    checked, graph = factorized(nn.Sequential(layer), 32, 6, 6, energy=0.999)
    assert checked.graph["0.v"].layer.stride == (stride, stride)
    assert checked.graph["0"].layer.stride == (1, 1)
    x = torch.randn(3, 32, 6, 6)
    (want,), (got,) = (run_graph(g, (x,)) for g in (graph, checked.graph))
    assert got.shape == want.shape
    share = float((got - want).pow(2).mean() / want.pow(2).mean())
    assert share < 0.01
    total_before, total_after = (total_cost(g, b=1).macs for g in (graph, checked.graph))
    assert total_after < total_before


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(24, 24), linear(24, 24)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (Tied(), (24,), "skipped: its weight is tied to another layer"),
        (nn.Conv2d(8, 8, 3, groups=2), (8, 6, 6), "skipped: a convolution of 2 groups is not one"),
        (nn.Conv2d(8, 8, 1, groups=2), (8, 6, 6), "skipped: a convolution of 2 groups is not one"),
        (nn.ConvTranspose2d(8, 8, 3), (8, 6, 6), "skipped: conv_transpose2d is no linear layer"),
        (linear(rate=1.0), (32,), "skipped: rank 23 is not below 0.8 of break-even 13.7"),
    ],
)
def test_left_alone_with_a_reason(module, shape, reason):
    checked, graph = factorized(module, *shape)
    assert str(checked.graph) == str(graph)
    assert {note[0][: len(reason)] for note in checked.notes.values()} == {reason}


@pytest.mark.parametrize(("limit", "fires"), [(0.5, False), (0.55, True)])
def test_limit(limit, fires):
    """Rank 7 is 0.51 of the break-even rank 32*24/56 = 13.7."""
    checked, _ = factorized(nn.Sequential(linear()), 32, rank=7, limit=limit)
    assert bool(checked.edits) == fires


def test_a_rank_that_no_layer_has():
    checked, _ = factorized(nn.Sequential(linear()), 32, rank=1000, limit=1.0)
    assert checked.edits == {}


def test_a_weight_of_zeros():
    layer = linear()
    nn.init.zeros_(layer.weight)
    checked, graph = factorized(nn.Sequential(layer), 32)
    assert checked.notes == {"0": ["rank 1 of 24 keeps 100.0% of the energy"]}
    x = torch.randn(2, 32)
    (want,), (got,) = (run_graph(g, (x,)) for g in (graph, checked.graph))
    assert torch.equal(got, want)


def test_the_factors_train_alike():
    checked, _ = factorized(nn.Sequential(linear()), 32, rank=4)
    norms = [checked.graph[name].layer.weight.norm().item() for name in ("0", "0.v")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize("options", [{"energy": 1.0}, {"energy": 0}, {"rank": 0}, {"limit": 1.5}])
def test_bad_options(options):
    with pytest.raises(CompresscError, match="CC102"):
        make(LowRank, options)


def test_weights_of_a_recurrent_layer_are_called_so():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.scale = nn.GRU(8, 8, batch_first=True), nn.Parameter(torch.ones(8))

        def forward(self, x):
            return self.rnn(x)[0] * self.scale

    notes = factorized(Tagger(), 5, 8)[0].notes
    said = [text for name, (text,) in notes.items() if name.startswith("rnn.")]
    assert len(said) == 4
    assert all("a weight of a recurrent layer" in text for text in said)
    assert "scale" not in notes  # nothing is multiplied with a matrix of it


class Matrices(nn.Module):
    """A norm and a position are none of low rank's business; matrices of calls are."""

    def __init__(self):
        super().__init__()
        self.norm, self.position = nn.LayerNorm(8), nn.Parameter(torch.randn(5, 8))
        self.single = nn.Parameter(torch.randn(8, 8))
        self.experts = nn.Parameter(torch.randn(3, 8, 8))

    def forward(self, x):
        x = self.norm(x) + self.position
        chosen = x.mean(-1).argmax(-1) % 3
        return x @ (self.single * 2) + torch.bmm(x, self.experts[chosen]) + x @ self.experts[0]


def test_only_what_holds_a_matrix_is_listed_as_left():
    net, notes = Matrices(), factorized(Matrices(), 5, 8)[0].notes
    said = {name: text for name, (text,) in notes.items()}
    assert said == dict.fromkeys(
        ["experts"], "skipped: a matrix that is multiplied with by a call, no layer"
    )
    assert isinstance(net.single, nn.Parameter)


def test_a_norm_behind_the_factors_has_statistics_of_what_it_sees_now():
    torch.manual_seed(0)
    net = nn.Sequential(linear(rate=0.9), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
    x = torch.randn(400, 32) * torch.linspace(0.1, 3, 32) + 1
    net.train()
    for _ in range(60):
        net(x)
    graph = export_graph(net.eval(), x[:4])
    part = Split((x,))
    checked = check_pass(LowRank(rank=8, aware=False), graph, Dataset("rows", part, part, part))
    with torch.no_grad():
        seen = x @ product(checked.graph, "0").float().T + net[0].bias
    norm = checked.graph["1"].layer
    assert torch.allclose(norm.running_mean, seen.mean(0), atol=1e-3)
    assert torch.allclose(norm.running_var, seen.var(0), rtol=1e-3)
    assert not torch.allclose(norm.running_var, net[1].running_var, rtol=1e-1)
