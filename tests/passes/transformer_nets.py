"""Tiny `transformers` models of random weights as a run has them, and random data for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from compressc.analysis import symbolize_widths
from compressc.data import Dataset, Split
from compressc.frontend import load_model
from compressc.ir import Graph
from tests.unit.analysis.analysis_nets import NETS, net

_TEXT = ("input_ids: i64[b,s]", "attention_mask: i64[b,s]")
_SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=100, intermediate_size=64, max_position_embeddings=64, **_SIZES)
    return BertForSequenceClassification(config)


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(vocab_size=100, use_cache=False, **sizes))


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=100, use_cache=False, **sizes, **_SIZES))


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"intermediate_size": 64, "image_size": 16, "patch_size": 4, "num_channels": 1}
    return ViTForImageClassification(ViTConfig(**sizes, **_SIZES))


def _convnext() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(num_channels=1, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32])
    return ConvNextForImageClassification(config)


#: Networks of `analysis_nets` for every run; `make slow` has all of them.
FEW = ("digits_cnn", "dense_net", "plain_matrices", "gqa_repeat", "split_qkv", "padded")


def all_nets() -> list[Any]:
    """Names of all networks, those beyond `FEW` marked slow, as pytest parameters."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in FEW)) for name in NETS]


_IMAGE = ("pixel_values: f32[b,1,16,16]",)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "bert": (_bert, _TEXT),
    "gpt2": (_gpt2, _TEXT),
    "llama": (_llama, _TEXT),
    "vit_hf": (_vit, _IMAGE),
    "convnext": (_convnext, ("pixel_values: f32[b,1,64,64]",)),
}


@lru_cache
def _loaded(name: str) -> Graph:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    graph = load_model(make().eval(), input_spec=inputs).graph
    symbolize_widths(graph)
    return graph


def transformer(name: str) -> Graph:
    """A private copy of the graph."""
    return _loaded(name).copy()


def random_data(graph: Graph, samples: int = 16, sequence: int = 7) -> Dataset:
    """Unlabelled: floats from a normal distribution, ids below 20, masks of ones."""
    generator = torch.Generator().manual_seed(0)

    def value(type_: Any, name: str) -> torch.Tensor:
        sizes = [size if isinstance(size, int) else sequence for size in type_.shape[1:]]
        if type_.dtype.is_floating_point:
            return torch.randn(samples, *sizes, generator=generator)
        if "mask" in name:
            return torch.ones(samples, *sizes, dtype=type_.dtype)
        return torch.randint(0, 20, (samples, *sizes), generator=generator)

    inputs = tuple(value(graph.type_of(op.name), op.name) for op in graph.inputs)
    split = Split(inputs)
    return Dataset("random", split, split, split)


def example_data(name: str, samples: int = 8) -> Dataset:
    """The example inputs of a network of `analysis_nets`, over and over."""
    _, example = net(name)
    split = Split(tuple(x.repeat(samples, *(1 for _ in x.shape[1:]))[:samples] for x in example))
    return Dataset("example", split, split, split)
