"""Modules with weights on the meta device are read without a number."""

from __future__ import annotations

import torch
import transformers as hf

from compressc.analysis import total_cost
from compressc.frontend import load_model


def test_a_language_model_without_weights() -> None:
    config = hf.LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=4,
        use_cache=False,
    )
    with torch.device("meta"):
        module = hf.LlamaForCausalLM(config)
        ids = torch.zeros(3, 11, dtype=torch.long)
    loaded = load_model(module, example=(ids,), input_spec=["input_ids: i64[b,s]"])
    assert str(loaded.graph.inputs[0].type) == "i64[b,s]"
    assert total_cost(loaded.graph).parameters == sum(p.numel() for p in module.parameters())
