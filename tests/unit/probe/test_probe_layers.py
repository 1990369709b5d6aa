"""Layers as they are timed: which ops, at which sizes, drawn as the exporter writes them."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
import torch
from torch import nn

from compressc.analysis import couple, sizes_of
from compressc.backend import load_backend
from compressc.frontend import load_model
from compressc.ir import Graph, random_inputs
from compressc.measure import layer_times
from compressc.probe import emit_part, plan_of
from compressc.probe.layers import layers_of
from compressc.testing import export_graph
from tests.unit.analysis.analysis_nets import symbolized


def optimized(source: bytes | str, folder) -> Counter[str]:
    """Nodes of what ONNX Runtime makes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


class Chain(nn.Module):
    """Convolutions with all that is fused to them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.b = nn.Sequential(nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.deep(self.a(x)))
        return self.head(self.pool(x).flatten(1))


def chain() -> Graph:
    return export_graph(Chain().eval(), torch.randn(5, 3, 8, 8))


def test_layers_with_what_is_fused_and_their_sizes():
    graph = chain()
    found = {one.op: one for one in layers_of(graph, couple(graph), {"b": 2}).timed}
    assert list(found) == ["a.0", "deep", "b.0", "pool", "head"]
    assert found["a.0"].fused == ("a.1", "a.2")
    assert found["a.0"].signature == "conv2d(kernel=3, padding=1)+relu 2x3x8x8 -> 2xAx8x8"
    assert found["a.0"].macs == 2 * 16 * 64 * 27
    assert found["deep"].signature.endswith("2xAx8x8 -> 2xAx4x4 in A groups")
    assert found["deep"].full == (16,)  # one size, read and made
    assert found["b.0"].full == (16, 32)
    assert found["head"].signature == "linear 2xA -> 2x5"


def test_the_model_of_a_layer_has_the_sizes_that_are_asked_for():
    graph = chain()
    layers = {one.op: one for one in layers_of(graph, couple(graph), {"b": 2}).timed}
    model, inputs = layers["b.0"].model((8, 24))
    assert inputs == [{"dtype": "float32", "shape": [2, 8, 4, 4]}]
    (out,) = onnx.load_from_string(model).graph.output
    assert [dim.dim_value for dim in out.type.tensor_type.shape.dim][1:] == [24, 4, 4]
    model, inputs = layers["deep"].model((6,))
    assert inputs[0]["shape"] == [2, 6, 8, 8]
    assert len(model) < 1000  # the weights are no bytes of it
    assert layers["b.0"].model((8, 24))[0] == layers["b.0"].model((8, 24))[0]


@pytest.mark.parametrize("which", ["chain", "vit", "digits_cnn"])
def test_layers_together_are_the_nodes_of_the_whole(which, tmp_path):
    """As ONNX Runtime optimizes both: else a table would be of something else."""
    graph = chain() if which == "chain" else symbolized(which)
    found = couple(graph)
    sizes = sizes_of(graph, None)
    example = random_inputs(graph)
    whole = optimized(str(emit_part(graph, found, {}, tmp_path / "whole", example)), tmp_path)
    layers = Counter[str]()
    for layer in layers_of(graph, found, {**sizes, "b": 3}).timed:
        layers += optimized(layer.model(layer.full)[0], tmp_path)
    heavy = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Softmax"}
    assert {k: n for k, n in layers.items() if k in heavy} == {
        k: n for k, n in whole.items() if k in heavy
    }


def test_parts_of_a_whole_can_be_cut_and_run(tmp_path):
    graph = symbolized("vit")
    found = couple(graph)
    plan = plan_of(graph, found, {}, 2, {width.axis for width in found.widths()})
    inputs = random_inputs(graph, batch=2)
    sizes = []
    for part, left in plan.parts.items():
        path = emit_part(graph, found, left, tmp_path / str(part), random_inputs(graph))
        (out,) = load_backend("onnx").load(path)(*inputs)
        assert out.shape[0] == 2
        sizes.append(path.stat().st_size)
    assert sizes[0] > 1.4 * sizes[1] > 1.4 * sizes[2]


def test_names_and_weights_do_not_change_the_structure_but_widths_do():
    def plan(module: nn.Module) -> str:
        graph = export_graph(module.eval(), torch.randn(5, 4))
        return plan_of(graph, couple(graph), {}, 1, set()).structure

    def net(width: int, seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

    named = nn.Module()
    named.one, named.two, named.three = net(8, 5)
    named.forward = lambda x: named.three(named.two(named.one(x)))  # type: ignore[method-assign]
    assert plan(net(8, 0)) == plan(net(8, 1)) == plan(named)
    assert plan(net(8, 0)) != plan(net(16, 0))


@pytest.mark.parametrize(
    "which", ["transformer_encoder", "dense_net", "gqa_flag", "rotary", "u_net"]
)
def test_every_layer_that_is_drawn_runs(which):
    """Also at sizes of its own for each variable, as a grid has them."""
    graph = symbolized(which)
    layers = layers_of(graph, couple(graph), {**sizes_of(graph, None), "b": 2}).timed
    assert layers
    for layer in layers:
        for place in range(len(layer.full) + 1):
            sizes = [max(1, n // 2) if i < place else n for i, n in enumerate(layer.full)]
            source, inputs = layer.model(sizes)
            layer_times._Model(source, inputs, 1, False, layer_times.system_clock)()


@pytest.mark.parametrize(
    ("rnn", "kind"),
    [
        (nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True), "LSTM"),
        (nn.GRU(16, 24, batch_first=True), "GRU"),
    ],
    ids=["lstm", "gru"],
)
def test_recurrent_layers_are_drawn_with_their_states(rnn, kind, tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rnn = nn.Linear(8, 16), rnn
            self.head = nn.Linear(24 * (1 + rnn.bidirectional), 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(self.first(x))[0])

    graph = load_model(Net().eval(), input_spec=["x: f32[b,s,8]"]).graph
    layers = layers_of(graph, couple(graph), {"b": 2, "s": 7})
    assert not layers.fixed
    (layer,) = [one for one in layers.timed if one.op == "rnn"]
    assert sorted(layer.full) == sorted([16, 24 * (1 + rnn.bidirectional)])
    assert layer.macs == 2 * 7 * sum(t.numel() for t in rnn.parameters() if t.dim() > 1)
    half = [size // 2 for size in layer.full]
    model, inputs = layer.model(half)
    assert inputs[0]["shape"] == [2, 7, 8]
    assert optimized(model, tmp_path)[kind] == rnn.num_layers
