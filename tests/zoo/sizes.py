"""Small widths that the architectures of the zoo share, and what they are fed."""

from __future__ import annotations

from typing import Any

VOCABULARY = 97
TEXT = {"input_ids": f"i64[b,s]<{VOCABULARY}", "attention_mask": "i64[b,s]<2"}
CAUSAL = {"input_ids": f"i64[b,s]<{VOCABULARY}"}
IMAGE = {"pixel_values": "f32[b,3,32,32]"}
BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
LLAMA: dict[str, Any] = {
    **BERT,
    "num_key_value_heads": 2,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VIT: dict[str, Any] = {**BERT, "image_size": 32, "patch_size": 8}
