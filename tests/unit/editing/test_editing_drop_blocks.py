"""A graph without some blocks computes what the module without them does, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from compressc.analysis import find_chains, symbolize_widths
from compressc.editing import drop_blocks
from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import Graph, run_graph, verify
from compressc.testing import export_graph
from tests.models import Vit
from tests.unit.analysis.test_analysis_chains import Stack

_SIZES = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4}


@dataclass(frozen=True)
class Net:
    """How a model is built, what it is fed, and where its blocks are."""

    build: Callable[[], nn.Module]
    inputs: tuple[str, ...]
    blocks: Callable[[Any], list[nn.ModuleList]]


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=50, intermediate_size=64, max_position_embeddings=32, **_SIZES)
    return BertModel(config, add_pooling_layer=False)


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 4, "n_embd": 32, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, use_cache=False, **sizes))


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, use_cache=False, **sizes, **_SIZES))


def _t5() -> nn.Module:
    from transformers import T5Config, T5Model

    sizes = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 5}
    return T5Model(T5Config(vocab_size=50, use_cache=False, **sizes))


def _resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [4, 4]}
    return ResNetModel(ResNetConfig(num_channels=1, layer_type="basic", **sizes))


def _swin() -> nn.Module:
    from transformers import SwinConfig, SwinModel

    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "window_size": 2}
    return SwinModel(SwinConfig(num_channels=1, depths=[4, 2], num_heads=[2, 2], **sizes))


_TEXT = ("input_ids: i64[b,s]", "attention_mask: i64[b,s]")
NETS = {
    "vit": Net(lambda: Vit(blocks=4), ("x: f32[b,1,8,8]",), lambda m: [m.blocks]),
    "bert": Net(_bert, _TEXT, lambda m: [m.encoder.layer]),
    "gpt2": Net(_gpt2, _TEXT, lambda m: [m.transformer.h]),
    "llama": Net(_llama, _TEXT, lambda m: [m.model.layers]),
    "t5": Net(
        _t5,
        ("input_ids: i64[b,s]", "decoder_input_ids: i64[b,t]"),
        lambda m: [m.encoder.block, m.decoder.block],
    ),
    "resnet": Net(
        _resnet, ("pixel_values: f32[b,1,32,32]",), lambda m: [s.layers for s in m.encoder.stages]
    ),
    "swin": Net(_swin, ("pixel_values: f32[b,1,32,32]",), lambda m: [m.encoder.layers[0].blocks]),
}
#: Those that take longest to build and trace.
SLOW = ("t5", "llama", "swin")
#: What each chain's first member is among the blocks, and how many blocks a member has: the first
#: block of T5 makes the position bias, the first of a later stage of a ResNet is narrower at the
#: input, and Swin's blocks come in pairs.
FIRST = {"t5": ((1, 1), (1, 1)), "resnet": ((0, 1), (1, 1)), "swin": ((0, 2),)}


def _loaded(net: Net, module: nn.Module) -> Graph:
    graph = load_model(module.eval(), input_spec=net.inputs).graph
    symbolize_widths(graph)
    return graph


def _example(graph: Graph, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def value(name: str) -> torch.Tensor:
        type_ = graph.type_of(name)
        shape = [3, *(s if isinstance(s, int) else 7 for s in type_.shape[1:])]
        if type_.dtype.is_floating_point:
            return torch.randn(shape, generator=generator)
        if "mask" in name:
            return torch.ones(shape, dtype=torch.int64)
        return torch.randint(0, 50, shape, generator=generator)

    return tuple(value(op.name) for op in graph.inputs)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in NETS]
)
def test_as_the_module_without_the_blocks(name):
    torch.manual_seed(0)
    net = NETS[name]
    module = net.build().eval()
    teacher = _loaded(net, module)
    student = teacher.copy()
    chains = find_chains(student)
    places = FIRST.get(name, ((0, 1),))
    assert len(chains) == len(places)
    for chain, blocks, (first, size) in zip(chains, net.blocks(module), places, strict=True):
        assert first + size * len(chain) == len(blocks)
        gone = [1] if len(chain) < 4 else [1, 3]
        drop_blocks(student, chain, gone)
        for number in reversed(gone):
            del blocks[first + size * number : first + size * (number + 1)]
    verify(student, like=teacher)
    inputs = _example(teacher)
    want = run_graph(_loaded(net, module), inputs)
    got, before = run_graph(student, inputs), run_graph(teacher, inputs)
    assert all(map(torch.equal, got, want))
    assert not all(map(torch.equal, got, before))


def _stack(depth: int = 4, inner: bool = False) -> Graph:
    torch.manual_seed(0)
    return export_graph(Stack(depth, inner).eval(), torch.randn(2, 6))


def _ends(graph: Graph) -> list[str]:
    (chain,) = find_chains(graph)
    return [member[chain.passed[0]] for member in chain.members]


def test_the_end_in_front_of_a_gap_stands_for_the_end_of_the_gap():
    graph = _stack()
    ends = _ends(graph)
    (chain,) = find_chains(graph)
    joined = drop_blocks(graph, chain, [1, 2])
    assert joined == [ends[0]]
    assert graph[ends[0]].lineage == (ends[0], ends[1], ends[2])
    assert graph[ends[3]].lineage == (ends[3],)
    assert graph["blocks.0.up"].lineage == ("blocks.0.up",)


def test_the_sum_in_front_of_a_norm_goes_with_the_end():
    """Post-norm, as in BERT: the norm ends the block, and the sum is what it makes its value of."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

        def forward(self, x):
            return self.norm(x + torch.relu(self.fc(x)))

    graph = export_graph(nn.Sequential(*(Block() for _ in range(4))).eval(), torch.randn(2, 6))
    (chain,) = find_chains(graph)
    assert [graph[end].kind for end in _ends(graph)] == ["layer_norm"] * 4
    drop_blocks(graph, chain, [1, 2])
    (sum_,) = graph["0.norm"].inputs
    assert graph["0.norm"].lineage == ("0.norm", "1.norm", "2.norm")
    assert len(graph[sum_].lineage) == 3
    assert graph["0.fc"].lineage == ("0.fc",)


def test_what_comes_into_the_chain_stands_for_itself():
    graph = _stack()
    (chain,) = find_chains(graph)
    assert drop_blocks(graph, chain, [0]) == ["x"]
    assert graph["x"].lineage == ()
    assert graph["blocks.1.norm"].inputs == ("x",)


def test_nothing_to_drop_changes_nothing():
    graph = _stack()
    text = str(graph)
    (chain,) = find_chains(graph)
    assert drop_blocks(graph, chain, []) == []
    assert str(graph) == text
    assert not graph.edits


@pytest.mark.parametrize(("number", "inner"), [(1, True), (4, False), (-1, False)])
def test_what_cannot_go_is_refused_and_left_whole(number, inner):
    graph = _stack(inner=inner)
    text = str(graph)
    (chain,) = find_chains(graph)
    with pytest.raises(CompresscError, match="CC400"):
        drop_blocks(graph, chain, [number])
    assert str(graph) == text


def test_widths_that_nothing_is_written_with_go_with_their_block():
    torch.manual_seed(0)
    graph = export_graph(Vit(blocks=3).eval(), torch.randn(2, 1, 8, 8))
    before = len(graph.widths)
    (chain,) = find_chains(graph)
    drop_blocks(graph, chain, [1, 2])
    assert 0 < len(graph.widths) < before
