"""Layers with int8 weights: text, bundle, verifier and numbers."""

import pytest
import torch
from backend_graphs import integer_result, quantized_graph, samples
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import load_bundle, lower, parse_graph, save_bundle, verify
from compressc.ir.layer_building import build_layer
from compressc.ir.quantized import QUANTIZED, quantized_layer


def test_graph_verifies_and_reads_back_as_it_prints():
    graph = quantized_graph()
    verify(graph)
    text = str(graph)
    assert "quantized_linear(%flat) {in=288, out=64} @fc.bias @fc.weight @fc.scale" in text
    assert str(parse_graph(text, graph.tensors())) == text
    assert str(parse_graph(text)) == text  # on the meta device, without weights


def test_bundle_keeps_int8(tmp_path):
    graph = quantized_graph()
    save_bundle(graph, tmp_path)
    again = load_bundle(tmp_path)
    assert again["fc"].layer.weight.dtype is torch.int8
    assert (tmp_path / "weights.safetensors").stat().st_size < 18_800 * 1.2
    assert torch.equal(lower(again)(samples(3)), lower(graph)(samples(3)))


def test_graph_computes_integer_arithmetic():
    graph, x = quantized_graph(), samples(50)
    got, want = lower(graph)(x).double(), integer_result(graph, x)
    # one step of %relu may fall on the other side of a half: 0.04 * 0.2 is the most it adds
    assert (got - want).abs().max() < 0.02
    assert (got - want).abs().median() < 1e-5


LAYERS = {
    "linear": (nn.Linear(6, 5), torch.randn(3, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, padding="same", bias=False), torch.randn(2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(2, 4, 7, 7)),
    "conv3d": (nn.Conv3d(2, 4, 2, dilation=2), torch.randn(1, 2, 5, 5, 5)),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), torch.randn(2, 4, 5)),
    "conv_transpose2d": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        torch.randn(2, 4, 5, 5),
    ),
    "conv_transpose3d": (nn.ConvTranspose3d(2, 3, 2, bias=False), torch.randn(1, 2, 3, 3, 3)),
    "embedding": (nn.Embedding(9, 4, padding_idx=0), torch.tensor([[0, 3], [8, 1]])),
}


def test_every_kind_is_tried():
    assert set(LAYERS) == set(QUANTIZED)


@pytest.mark.parametrize("kind", LAYERS)
def test_layer_computes_with_the_dequantized_weight(kind):
    layer, x = LAYERS[kind]
    scale = layer.weight.detach().flatten(1).abs().amax(1).clamp_min(1e-3) / 127
    column = scale.reshape([-1, *[1] * (layer.weight.dim() - 1)])
    weight = torch.round(layer.weight.detach() / column).to(torch.int8)
    got = quantized_layer(kind, layer, weight, scale)(x)
    with torch.no_grad():
        layer.weight.copy_(weight.float() * column)
    assert torch.allclose(got, layer(x), atol=1e-6)


def test_wrong_shapes_are_refused():
    layer = nn.Linear(6, 5)
    with pytest.raises(ValueError, match="scale"):
        quantized_layer("linear", layer, torch.zeros(5, 6, dtype=torch.int8), torch.ones(6))
    graph = quantized_graph()
    graph["fc"].layer.in_features = 100
    with pytest.raises(CompresscError, match="CC400"):
        verify(graph)


def test_unknown_attribute_is_refused():
    with pytest.raises(CompresscError, match="CC402"):
        build_layer("quantized_linear", {"in": 3, "out": 2, "bits": 4})
