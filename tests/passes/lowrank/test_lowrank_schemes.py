"""Each scheme by itself: what the chain computes, what it costs, what ranks keep."""

from __future__ import annotations

import pytest
import torch
from compressc_lowrank.factorizing import factorize
from compressc_lowrank.leading import energies, leading
from compressc_lowrank.matrices import matrix_of
from compressc_lowrank.planning import Plan, places
from compressc_lowrank.schemes import SCHEMES
from compressc_lowrank.schemes.spatial import Spatial
from compressc_lowrank.schemes.svd import Channel, Svd
from compressc_lowrank.schemes.tucker import Tucker
from compressc_lowrank.seen import Seen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressc.analysis import op_costs
from compressc.ir import Graph, run_graph, verify
from compressc.pipeline import Context
from compressc.testing import export_graph
from compressc.training.layer_rows import patches

OF_CONVOLUTIONS = (Channel(), Spatial(), Tucker())


@st.composite
def convolutions(draw, dims=(2,)):
    """A k x k convolution of any stride, padding and dilation, and the size of an image for it."""
    n = draw(st.sampled_from(dims))
    kernel = tuple(draw(st.integers(2, 4)) for _ in range(n))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(n))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(n))
    padding = draw(
        st.sampled_from(["same", "valid", tuple(draw(st.integers(0, 2)) for _ in range(n))])
    )
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = getattr(nn, f"Conv{n}d")(
        draw(st.integers(1, 5)),
        draw(st.integers(1, 6)),
        kernel,
        stride=1 if padding == "same" else stride,
        padding=padding,
        dilation=dilation,
        bias=draw(st.booleans()),
    )
    return layer.double(), [draw(st.integers(8, 11)) for _ in range(n)]


def some(width: int, *, mean: bool, rows: int = 50) -> Seen:
    """Moments of inputs that are correlated and lie off the origin."""
    generator = torch.Generator().manual_seed(width)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64) @ mix + 1
    middle = x.mean(0)
    second = x.T @ x / rows
    return Seen(second - torch.outer(middle, middle), middle) if mean else Seen(second)


def run_chain(links, x):
    for link in links:
        x = link.layer(x)
    return x


def taken(graph: Graph, scheme, ranks) -> Graph:
    op = next(op for op in graph if op.layer is not None)
    twin = graph.copy()
    plan = Plan(scheme, ranks, scheme.full(op.layer))
    factorize(twin, twin[op.name], plan, None, Context(graph))
    verify(twin)
    return twin


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("scheme", OF_CONVOLUTIONS, ids=lambda s: s.name)
@settings(max_examples=12, deadline=None)
@given(drawn=st.data())
def test_full_rank_is_the_convolution(scheme, aware, drawn):
    layer, sizes = drawn.draw(convolutions((2,) if scheme.name == "spatial" else (1, 2, 3)))
    seen = some(layer.weight[0].numel(), mean=layer.bias is not None) if aware else None
    chain = scheme.chain(layer, scheme.full(layer), seen)
    x = torch.randn(2, layer.in_channels, *sizes, dtype=torch.float64)
    want = layer(x)
    torch.testing.assert_close(run_chain(chain.links, x), want, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(chain.matrix, matrix_of(layer), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize(
    ("layer", "example"),
    [
        (nn.Linear(7, 4), torch.randn(3, 7)),
        (nn.Linear(4, 9, bias=False), torch.randn(3, 4)),
        (nn.Conv2d(5, 7, 1, stride=2, padding=1), torch.randn(2, 5, 6, 7)),
        (nn.Conv1d(5, 3, 1), torch.randn(2, 5, 6)),
        (nn.Embedding(11, 6, padding_idx=2), torch.arange(11).reshape(1, 11)),
    ],
    ids=str,
)
def test_full_rank_is_the_layer(layer, example, aware):
    layer = layer.double()
    example = example.double() if example.is_floating_point() else example
    kind = "embedding" if isinstance(layer, nn.Embedding) else "svd"
    scheme = next(scheme for scheme in SCHEMES if scheme.name == kind)
    seen = None
    if aware and kind == "embedding":
        seen = Seen(torch.tensor([5.0, 0, 1, 1, 0, 9, 2, 2, 0, 0, 1], dtype=torch.float64))
    elif aware:
        seen = some(layer.weight[0].numel(), mean=layer.bias is not None)
    chain = scheme.chain(layer, scheme.full(layer), seen)
    torch.testing.assert_close(
        run_chain(chain.links, example), layer(example), atol=1e-9, rtol=1e-9
    )


@settings(max_examples=15, deadline=None)
@given(drawn=convolutions(), part=st.floats(0.2, 0.9))
@pytest.mark.parametrize("scheme", OF_CONVOLUTIONS, ids=lambda s: s.name)
def test_costs_and_types_are_those_of_the_graph(scheme, drawn, part):
    """What a scheme says of its cost is what the analysis counts in the graph that it makes."""
    layer, sizes = drawn
    graph = export_graph(layer.float(), torch.randn(3, layer.in_channels, *sizes))
    (op,) = (op for op in graph if op.layer is not None)
    ranks = tuple(max(1, int(part * full)) for full in scheme.full(op.layer))
    twin = taken(graph, scheme, ranks)
    bias = 0 if layer.bias is None else len(layer.bias)
    weights = scheme.weights(op.layer)
    costs = op_costs(twin, b=2)
    assert sum(c.parameters for c in costs.values()) == weights.of(ranks) + bias
    assert weights.dense == layer.weight.numel()
    macs = weights.times(*places(graph, op, scheme, {"b": 2}))
    assert sum(c.macs for c in costs.values()) == macs.of(ranks)
    assert sum(c.macs for c in op_costs(graph, b=2).values()) == macs.dense
    x = torch.randn(2, layer.in_channels, *sizes)
    assert run_graph(twin, (x,))[0].shape == run_graph(graph, (x,))[0].shape


@pytest.mark.parametrize("scheme", OF_CONVOLUTIONS, ids=lambda s: s.name)
def test_what_ranks_keep_is_what_is_left(scheme):
    """Against the difference of the weights; iteration may make a Tucker core better, not worse."""
    torch.manual_seed(3)
    layer = nn.Conv2d(6, 8, 3)
    spectrum = scheme.spectrum(layer)
    assert float(spectrum.kept[-1]) == pytest.approx(1)
    assert bool((spectrum.kept.diff() >= -1e-12).all())
    whole = matrix_of(layer).double()
    for row in range(0, len(spectrum.kept), 5):
        chain = scheme.chain(layer, spectrum[row], None)
        kept = 1 - float((whole - chain.matrix).square().sum() / whole.square().sum())
        if scheme.name == "tucker":
            assert kept >= float(spectrum.kept[row]) - 1e-9
        else:
            assert kept == pytest.approx(float(spectrum.kept[row]), abs=1e-9)


def images(channels: int, size: int) -> torch.Tensor:
    """Images as nets see them: neighbours are alike, channels go together, the mean is not zero."""
    generator = torch.Generator().manual_seed(channels)
    noise = torch.randn(40, channels, size + 4, size + 4, generator=generator, dtype=torch.float64)
    smooth = nn.functional.avg_pool2d(noise, 5, 1)
    mix = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    return torch.einsum("nchw,cd->ndhw", smooth, mix) + 0.5


@pytest.mark.parametrize("scheme", [Svd(), *OF_CONVOLUTIONS], ids=lambda s: s.name)
def test_factors_chosen_by_inputs_err_less_on_them(scheme):
    torch.manual_seed(5)
    layer = nn.Linear(16, 12) if scheme.name == "svd" else nn.Conv2d(6, 12, 3)
    x = torch.randn(400, 16).double() * torch.linspace(0.1, 2, 16) + 1
    rows = x if scheme.name == "svd" else patches(layer, images(6, 9), 10**6)
    middle = rows.mean(0)
    seen = Seen(rows.T @ rows / len(rows) - torch.outer(middle, middle), middle)
    ranks = tuple(max(1, full // 3) for full in scheme.full(layer))
    errors = []
    for chosen_by in (seen, None):
        lost = matrix_of(layer).double() - scheme.chain(layer, ranks, chosen_by).matrix
        errors.append(float((lost @ seen.second @ lost.T).trace()))
    assert errors[0] < 0.8 * errors[1]


def test_the_linear_optimum():
    """Of all matrices of the rank, none is nearer in the covariance: whitened, cut and back."""
    torch.manual_seed(6)
    layer = nn.Linear(9, 7)
    seen = some(9, mean=True)
    found = Svd().chain(layer, (3,), seen).matrix
    root = torch.linalg.cholesky(
        seen.second + 1e-2 * seen.second.diagonal().mean() * torch.eye(9, dtype=torch.float64)
    )
    u, s, v = torch.linalg.svd(matrix_of(layer).double() @ root, full_matrices=False)
    want = (u[:, :3] * s[:3]) @ v[:3] @ root.inverse()
    torch.testing.assert_close(found, want, atol=1e-8, rtol=1e-6)


def test_few_directions_of_a_large_matrix_come_from_a_sketch():
    """Near the best basis on a flat spectrum, the same each time, and nobody's generator moves."""
    matrix = torch.randn(1100, 1030, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    basis = leading(matrix, 32)
    assert torch.equal(torch.rand(3), want)
    assert torch.equal(leading(matrix, 32), basis)
    torch.testing.assert_close(basis.T @ basis, torch.eye(32, dtype=torch.float64))
    exact = matrix.double()
    error = (exact - basis @ (basis.T @ exact)).norm()
    assert 1 <= float(error / energies(exact)[32:].sum().sqrt()) < 1.01


@pytest.mark.parametrize("scheme", OF_CONVOLUTIONS, ids=lambda s: s.name)
def test_factors_train_alike(scheme):
    torch.manual_seed(7)
    layer = nn.Conv2d(8, 8, 3)
    chain = scheme.chain(layer, tuple(4 for _ in scheme.full(layer)), None)
    norms = [float(link.layer.weight.norm()) for link in chain.links]
    assert max(norms) < 1.01 * min(norms)


def test_a_convolution_of_zeros():
    layer = nn.Conv2d(4, 4, 3)
    nn.init.zeros_(layer.weight)
    for scheme in OF_CONVOLUTIONS:
        chain = scheme.chain(layer, scheme.fixed(layer, 2), some(36, mean=True))
        assert all(bool(link.layer.weight.isfinite().all()) for link in chain.links)
        assert float(chain.matrix.abs().max()) == 0
