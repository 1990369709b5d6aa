"""Weights computed from a model's own tensors become weights of layers, with the same numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from compressc.frontend import Loaded, load_model
from compressc.ir import Graph, layer_tensors, lower
from tests.unit.frontend.raising_nets import kinds


class Net(nn.Module):
    """A function of a module and its input, with tensors and layers of its own."""

    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor], **held: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in held.items():
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def param(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def loaded(module: nn.Module, spec: str = "f32[b,8]") -> Loaded:
    """The model, proved equal at a batch it was not traced with."""
    found = load_model(module.eval(), input_spec=[spec])
    assert found.example is not None
    x = torch.cat([found.example[0], found.example[0]]).flip(0)
    with torch.no_grad():
        torch.testing.assert_close(lower(found.graph)(x), module(x), rtol=1e-6, atol=1e-6)
    return found


def weight(graph: Graph, name: str) -> torch.Tensor:
    return dict(layer_tensors(graph[name].layer))["weight"]  # type: ignore[arg-type]


def old(hook: Callable[..., nn.Module], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hook(layer)


def masked(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    return layer


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm, hook": lambda layer: old(nn.utils.weight_norm, layer),
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm, hook": lambda layer: old(nn.utils.spectral_norm, layer),
    "orthogonal": parametrizations.orthogonal,
    "mask": masked,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_layers_are_layers_under_their_own_names(wrap: Any) -> None:
    layer = wrap(nn.Linear(8, 8))
    found = loaded(nn.Sequential(layer, nn.ReLU(), wrap(nn.Linear(8, 4))))
    assert [(op.name, op.kind) for op in found.graph][1:] == [
        ("0", "linear"), ("1", "relu"), ("2", "linear")
    ]  # fmt: skip
    assert torch.equal(weight(found.graph, "0"), layer.weight)
    assert "computed once" in found.notes[0]
    assert "0 (from 0." in found.notes[0]


def test_the_weight_is_what_the_formula_says() -> None:
    layer = parametrizations.weight_norm(nn.Conv1d(3, 5, 2))
    g = layer.parametrizations.weight.original0.detach().double()
    v = layer.parametrizations.weight.original1.detach().double()
    graph = loaded(layer, "f32[b,3,9]").graph
    want = g * v / v.pow(2).sum((1, 2), keepdim=True).sqrt()
    (op,) = (op for op in graph if op.kind == "conv1d")
    torch.testing.assert_close(weight(graph, op.name).double(), want, rtol=1e-6, atol=1e-6)
    assert weight(graph, op.name).requires_grad


def _standardized(self: Any, x: torch.Tensor) -> torch.Tensor:
    w = self.conv.weight
    mean, variance = w.mean((1, 2), keepdim=True), w.var((1, 2), keepdim=True, unbiased=False)
    return F.conv1d(x.unflatten(1, (2, 4)), (w - mean) / (variance + 1e-5).sqrt(), self.conv.bias)


def _zeroed(self: Any, x: torch.Tensor) -> torch.Tensor:
    w = self.l.weight.clone()
    w[:, 0] = 0
    return F.linear(x, w, self.l.bias)


FORMS: dict[str, tuple[nn.Module, str]] = {
    "LoRA": (
        Net(lambda s, x: F.linear(x, s.l.weight + s.B @ s.A, s.l.bias),
            l=nn.Linear(8, 6), A=param(2, 8), B=param(6, 2)), "linear"),
    "two factors": (Net(lambda s, x: x @ (s.u @ s.v), u=param(8, 4), v=param(4, 5)), "linear"),
    "a layer's output": (
        Net(lambda s, x: x @ F.linear(s.seeds, s.w).T, seeds=param(5, 8), w=param(8, 8)), "linear"),
    "standardized": (Net(_standardized, conv=nn.Conv1d(2, 4, 3)), "conv1d"),
    "parts joined": (
        Net(lambda s, x: F.linear(x, torch.cat([s.q, s.k]), torch.cat([s.b, s.b * 0])),
            q=param(3, 8), k=param(3, 8), b=param(3)), "linear"),
    "bias alone": (
        Net(lambda s, x: F.linear(x, s.l.weight, s.l.bias * 2), l=nn.Linear(8, 6)), "linear"),
    "int8 with scales": (
        Net(lambda s, x: F.linear(x, s.q.float() * s.scale),
            q=torch.randint(-127, 128, (6, 8), dtype=torch.int8), scale=torch.rand(6, 1)),
        "linear"),
    "cast": (
        Net(lambda s, x: F.linear(x, s.w.float()), w=nn.Parameter(torch.randn(6, 8).half())),
        "linear"),
    "reshaped": (Net(lambda s, x: F.linear(x, s.w.reshape(6, 8)), w=param(48)), "linear"),
    "flipped": (
        Net(lambda s, x: F.conv1d(x[:, None], s.w.flip(-1)), w=param(4, 1, 3)), "conv1d"),
    "expanded buffer": (
        Net(lambda s, x: F.conv1d(x.reshape(-1, 2, 4), s.k.expand(2, 1, 3), groups=2),
            k=torch.rand(1, 1, 3)), "conv1d"),
    "norm": (
        Net(lambda s, x: F.layer_norm(x, (8,), 1 + s.g, None), g=param(8)), "layer_norm"),
    "written in place": (Net(_zeroed, l=nn.Linear(8, 6)), "linear"),
    "solved": (
        Net(lambda s, x: F.linear(x, torch.linalg.solve(torch.eye(8) + s.a - s.a.T, s.a)),
            a=param(8, 8)), "linear"),
    "dropped in training": (
        Net(lambda s, x: F.linear(x, F.dropout(s.w, 0.5, s.training)), w=param(6, 8)), "linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_one_layer_is_left_of_the_call_and_its_weight(name: str) -> None:
    module, kind = FORMS[name]
    found = loaded(module)
    calls = {"aten.unsqueeze", "aten.unflatten.int", "aten.reshape"}  # of the input
    assert [k for k in kinds(found.graph) if k not in calls] == [kind]
    assert "computed once" in found.notes[0]


def test_a_computed_embedding() -> None:
    module = Net(lambda s, x: F.embedding(x, s.table * 3), table=param(10, 4))
    found = load_model(module.eval(), input_spec=["x: i64[b,5]"])
    assert kinds(found.graph) == ["embedding"]
    assert torch.equal(weight(found.graph, "embedding"), module.table * 3)  # type: ignore[operator]


def test_a_recurrent_call_reads_the_computed_weight() -> None:
    rnn = old(lambda layer: nn.utils.weight_norm(layer, "weight_hh_l0"), nn.LSTM(8, 6))
    found = loaded(Net(lambda s, x: s.rnn(x[:, None])[0][:, 0], rnn=rnn))
    assert not [kind for kind in kinds(found.graph) if "norm" in kind]
    assert "computed once" in found.notes[0]


def test_a_computed_convolution_of_core_aten() -> None:
    layer = parametrizations.weight_norm(nn.Conv2d(2, 4, 3))
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(layer.eval(), (torch.randn(3, 2, 5, 5),), dynamic_shapes=shapes)
    found = load_model(program.run_decompositions())
    assert kinds(found.graph) == ["conv2d"]
    assert "computed once" in found.notes[0]


# ---- ties ----------------------------------------------------------------------------------------


def test_equal_expressions_stay_one_tensor() -> None:
    def function(s: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(torch.relu(F.linear(x, s.w / s.w.norm())), s.w / s.w.norm())

    graph = loaded(Net(function, w=param(8, 8))).graph
    assert weight(graph, "linear") is weight(graph, "linear_1")


TRANSPOSED = {
    "linear": lambda s, x: F.linear(torch.relu(s.enc(x)), s.enc.weight.t()),
    "matmul": lambda s, x: torch.relu(s.enc(x)) @ s.enc.weight,
}


@pytest.mark.parametrize("how", TRANSPOSED)
def test_a_transposed_tie_is_undone_and_said(how: str) -> None:
    found = loaded(Net(TRANSPOSED[how], enc=nn.Linear(8, 6)))
    assert kinds(found.graph) == ["linear", "relu", "linear"]
    first, second = weight(found.graph, "enc"), weight(found.graph, how)
    assert torch.equal(first.t(), second)
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert f"no longer tied, so passes may move them apart: {how} with enc" in found.notes


def test_a_factor_that_folding_frees_becomes_a_layer() -> None:
    """A factorization machine: `x @ V` and `x^2 @ V^2`."""
    module = Net(lambda s, x: (x @ s.V) ** 2 - (x**2) @ (s.V**2), V=param(8, 5))
    found = loaded(module)
    assert kinds(found.graph).count("linear") == 2
    assert "aten.matmul" not in kinds(found.graph)


# ---- what is left as it is -----------------------------------------------------------------------


def test_what_is_read_as_data_stays_computed() -> None:
    def function(s: Any, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = s.l(x) * s.scale.exp() + s.table[s.index].view(6)
        return scaled

    held = {"scale": param(1), "table": param(3, 2), "index": torch.tensor([0, 2, 1])}
    found = loaded(Net(function, l=nn.Linear(8, 6), **held))
    assert "aten.exp" in kinds(found.graph)
    assert "aten.index.Tensor" in kinds(found.graph)
    assert not found.notes


def test_a_random_weight_is_not_frozen() -> None:
    module = Net(lambda s, x: F.linear(x, s.w + torch.randn_like(s.w) * 0), w=param(6, 8))
    found = load_model(module.eval(), input_spec=["x: f32[b,8]"])
    assert "aten.linear" in kinds(found.graph)
    assert "aten.randn_like" in kinds(found.graph)


def test_a_weight_that_depends_on_the_input_is_no_weight() -> None:
    module = Net(lambda s, x: F.linear(x, s.w * x.mean()), w=param(6, 8))
    assert "aten.linear" in kinds(loaded(module).graph)


def test_a_weight_many_times_its_sources_stays_a_product() -> None:
    module = Net(lambda s, x: F.linear(x, torch.kron(s.a, s.b)), a=param(32, 32), b=param(32, 32))
    found = loaded(module, "f32[b,1024]")
    assert "aten.kron" in kinds(found.graph)
    assert found.notes == (
        "weights left computed, as they would take more bytes: linear 512 times",
    )


def test_a_quantized_weight_stays_quantized() -> None:
    import torch.ao.quantization.fx._decomposed

    def function(s: Any, x: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.quantized_decomposed
        w = ops.dequantize_per_tensor(s.q, 0.1, 0, -128, 127, torch.int8)
        return F.linear(x, w)

    module = Net(function, q=torch.randint(-127, 128, (6, 8), dtype=torch.int8))
    found = load_model(module.eval(), input_spec=["x: f32[b,8]"])
    assert "quantized_decomposed.dequantize_per_tensor" in kinds(found.graph)
    assert not found.notes


def test_writes_into_data_are_refused_with_the_way_out() -> None:
    def function(s: Any, x: torch.Tensor) -> torch.Tensor:
        s.l.weight.data *= s.mask
        out: torch.Tensor = s.l(x)
        return out

    module = Net(function, l=nn.Linear(8, 6), mask=torch.ones(6, 8))
    with pytest.raises(Exception, match=r"CC202.*multiply where the weight is read"):
        load_model(module.eval(), input_spec=["x: f32[b,8]"])
