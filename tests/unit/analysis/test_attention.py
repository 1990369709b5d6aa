"""Attention layers are found, fused and written out, and are what the graph computes."""

import math

import pytest
import torch
from torch import nn

from compressc.analysis import symbolize_widths
from compressc.analysis.attention import find_attention
from compressc.distillation.attention import read_attention
from compressc.frontend import load_model
from compressc.ir import lower
from compressc.testing import export_graph
from tests.models import ZOO
from tests.passes.transformer_nets import MODELS, random_data


def recomputed(attention):
    """Softmax of the scores, times the values, head by head."""
    scores = attention.scores()
    if attention.allowed is not None:
        scores = scores.masked_fill(~attention.allowed, -math.inf)
    groups = attention.query.shape[1] // attention.value.shape[1]
    return scores.softmax(-1) @ attention.value.repeat_interleave(groups, 1)


def hold(graph, inputs, count, known=None):
    """Each layer that is found hands on what is computed of what was read; of `known` rows."""
    layers = find_attention(graph)
    assert len(layers) == count
    names = [name for layer in layers for name in (*layer.values, layer.name)]
    with torch.no_grad():
        values = dict(zip(names, lower(graph, also=names)(*inputs)[1], strict=True))
    for layer in layers:
        attention = read_attention(layer, values, len(inputs[0]))
        want = values[layer.name].view(recomputed(attention).shape)
        got = recomputed(attention)
        if known is not None:
            want, got = (x.transpose(1, 2)[known] for x in (want, got))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    return layers


@pytest.mark.parametrize("how", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit_hf"])
def test_of_transformers(name, how):
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    model.set_attn_implementation(how)
    graph = load_model(model, input_spec=inputs).graph
    symbolize_widths(graph)
    batch = list(random_data(graph, samples=3).train.inputs)
    known = None
    if name != "vit_hf":
        batch[1][0, 4:] = 0  # padding
        known = batch[1].bool()
    layers = hold(graph, batch, 2, known)
    assert bool(layers[0].key_transposed) == (how == "eager")


def test_of_a_fused_layer_without_a_mask():
    module, example = ZOO["vit"]()
    (first, _) = hold(export_graph(module, *example), example, 2)
    assert first.masks == ()


class Causal(nn.Module):
    def forward(self, q, k, v):
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)


def test_of_a_causal_layer():
    batch = [torch.randn(3, 2, 5, 4) for _ in range(3)]
    (layer,) = hold(export_graph(Causal().eval(), *batch), batch, 1)
    assert layer.causal
    assert layer.scale == 0.3


class Multihead(nn.Module):
    """Written out with heads in the batch, as torch does it where weights are wanted."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x, need_weights=True)[0]


def test_of_multihead_attention_written_out():
    batch = (torch.randn(3, 5, 16),)
    (layer,) = hold(export_graph(Multihead().eval(), *batch), batch, 1)
    assert layer.scale == 1.0  # the queries are scaled


class Filled(nn.Module):
    """A mask that is filled in, before the scale or after it."""

    def __init__(self, early):
        super().__init__()
        self.early = early

    def forward(self, q, k, v):
        causal = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
        scores = q @ k.transpose(-1, -2)
        if self.early:
            return (scores.masked_fill(causal, -1e9) / 2).softmax(-1) @ v
        return (scores / 2).masked_fill(causal, -math.inf).softmax(-1) @ v


def test_of_a_mask_that_is_filled_in():
    batch = [torch.randn(3, 2, 5, 4) for _ in range(3)]
    (layer,) = hold(export_graph(Filled(early=False).eval(), *batch), batch, 1)
    assert layer.scale == 0.5
    assert [mask.kind for mask in layer.masks] == ["forbidden"]
    # a mask that is scaled with the scores is none that could be told apart from them
    assert find_attention(export_graph(Filled(early=True).eval(), *batch)) == []


class NoAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim, self.head = dim, nn.Linear(4, 3)

    def forward(self, x, y):
        return self.head(x).softmax(self.dim) @ y


@pytest.mark.parametrize("dim", [-1, 1])
def test_a_softmax_of_no_product_is_none(dim):
    graph = export_graph(NoAttention(dim).eval(), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 3, 2))
    assert find_attention(graph) == []


def test_a_net_without_attention_has_none():
    module, example = ZOO["digits_cnn"]()
    assert find_attention(export_graph(module, *example)) == []
