"""Text encoders, causal models and sequence-to-sequence models of `transformers`."""

from __future__ import annotations

import transformers as hf

from tests.zoo.case import Zoo
from tests.zoo.sizes import BERT, CAUSAL, LLAMA, TEXT, VOCABULARY

MODELS = Zoo()


MODELS.add("bert", lambda: hf.BertModel(hf.BertConfig(**BERT)), TEXT)
MODELS.add(
    "distilbert",
    lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=48)
    ),
    TEXT,
)
MODELS.add(
    "roberta",
    lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**BERT)),
    TEXT,
)
MODELS.add("albert", lambda: hf.AlbertModel(hf.AlbertConfig(**BERT, embedding_size=16)), TEXT)
MODELS.add(
    "electra",
    lambda: hf.ElectraForPreTraining(hf.ElectraConfig(**BERT, embedding_size=16)),
    TEXT,
)
MODELS.add("deberta_v2", lambda: hf.DebertaV2Model(hf.DebertaV2Config(**BERT)), TEXT)
MODELS.add(
    "deberta_v3",
    lambda: hf.DebertaV2ForSequenceClassification(
        hf.DebertaV2Config(
            **BERT,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
        )
    ),
    TEXT,
)
MODELS.add("mpnet", lambda: hf.MPNetModel(hf.MPNetConfig(**BERT)), TEXT)
MODELS.add(
    "modernbert", lambda: hf.ModernBertModel(hf.ModernBertConfig(**BERT, pad_token_id=0)), TEXT
)

MODELS.add(
    "gpt2",
    lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, use_cache=False
        )
    ),
    CAUSAL,
)
MODELS.add(
    "opt",
    lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=48,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
            use_cache=False,
        )
    ),
    TEXT,
)
MODELS.add("llama", lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)), TEXT)
MODELS.add("qwen2", lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**LLAMA)), CAUSAL)
MODELS.add("qwen3", lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**LLAMA, head_dim=8)), CAUSAL)
MODELS.add(
    "mistral", lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA, sliding_window=16)), CAUSAL
)
MODELS.add("gemma", lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**LLAMA, head_dim=8)), CAUSAL)
MODELS.add("gemma2", lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**LLAMA, head_dim=8)), CAUSAL)
MODELS.add("phi", lambda: hf.PhiForCausalLM(hf.PhiConfig(**LLAMA)), CAUSAL)
MODELS.add("phi3", lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**LLAMA)), CAUSAL)
MODELS.add(
    "gpt_neox",
    lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**BERT, use_cache=False)),
    CAUSAL,
)
MODELS.add(
    "bloom",
    lambda: hf.BloomForCausalLM(
        hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, use_cache=False)
    ),
    CAUSAL,
)
MODELS.add(
    "mixtral",
    lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(
            **LLAMA, num_local_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm"
        )
    ),
    CAUSAL,
)

t5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
}
both = {**TEXT, "decoder_input_ids": f"i64[b,t]<{VOCABULARY}"}
MODELS.add("t5_encoder", lambda: hf.T5EncoderModel(hf.T5Config(**t5)), TEXT)
MODELS.add("t5", lambda: hf.T5ForConditionalGeneration(hf.T5Config(**t5)), both)
bart = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "use_cache": False,
}
MODELS.add("bart", lambda: hf.BartForConditionalGeneration(hf.BartConfig(**bart)), both)
MODELS.add(
    "marian",
    lambda: hf.MarianMTModel(hf.MarianConfig(**bart, pad_token_id=0, decoder_start_token_id=0)),
    both,
)

# What is refused, and says why.
MODELS.add(
    "mixtral (grouped experts)",
    lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2)
    ),
    CAUSAL,
    refusal="CC202",
)
MODELS.add(
    "flaubert",
    lambda: hf.FlaubertModel(
        hf.FlaubertConfig(vocab_size=VOCABULARY, emb_dim=32, n_layers=2, n_heads=4)
    ),
    CAUSAL,
    refusal="CC202",
)
MODELS.add(
    "longformer",
    lambda: hf.LongformerModel(hf.LongformerConfig(**BERT, attention_window=8)),
    CAUSAL,
    refusal="CC202",
)
