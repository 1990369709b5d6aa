"""Models of `transformers` for sound, and for images and text together."""

from __future__ import annotations

import transformers as hf

from tests.zoo.case import Zoo
from tests.zoo.sizes import BERT, IMAGE, TEXT, VIT, VOCABULARY

MODELS = Zoo()


CLIP = {**BERT, "bos_token_id": 1, "eos_token_id": 2}


MODELS.add("clip_text", lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**CLIP)), TEXT)
MODELS.add("clip_vision", lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VIT)), IMAGE)
MODELS.add(
    "clip",
    lambda: hf.CLIPModel(hf.CLIPConfig(text_config=CLIP, vision_config=VIT, projection_dim=16)),
    {**{k: v.replace("b,", "t,") for k, v in TEXT.items()}, **IMAGE},
)

WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 20,
    "max_source_positions": 24,
    "max_target_positions": 24,
    "vocab_size": VOCABULARY,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
MODELS.add(
    "whisper_encoder",
    lambda: hf.WhisperModel(hf.WhisperConfig(**WHISPER)).encoder,
    {"input_features": "f32[b,20,48]"},
)
MODELS.add(
    "whisper",
    lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**WHISPER)),
    {"input_features": "f32[b,20,48]", "decoder_input_ids": f"i64[b,t]<{VOCABULARY}"},
)
WAVE = {
    **BERT,
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
for _name, _class, _config in (
    ("wav2vec2", hf.Wav2Vec2ForCTC, hf.Wav2Vec2Config),
    ("hubert", hf.HubertModel, hf.HubertConfig),
):
    MODELS.add(
        _name,
        lambda make=_class, config=_config: make(config(**WAVE)),
        {"input_values": "f32[b,400]"},
    )
MODELS.add(
    "audio_spectrogram",
    lambda: hf.ASTForAudioClassification(
        hf.ASTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_length=32,
            num_mel_bins=32,
        )
    ),
    {"input_values": "f32[b,32,32]"},
)
