"""Hugging Face folders: the task head they have, inputs of their own, no code, no network."""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.utils._pytree import tree_leaves

from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.frontend.formats.huggingface import read_folder
from compressc.ir import lower

hf = pytest.importorskip("transformers")
torch.set_num_threads(1)

TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {"input_ids": "i64[b,s]", "attention_mask": "i64[b,s]"}
VISION = {**TINY, "image_size": 32, "patch_size": 8}
T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}

Make = Callable[[], Any]
MODELS: dict[str, tuple[Make, dict[str, str]]] = {
    "bert": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**TINY)), TEXT),
    "gpt2": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4)
        ),
        TEXT,
    ),
    "llama": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TINY, **TOKENS, num_key_value_heads=2)),
        TEXT,
    ),
    "vit": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION)),
        {"pixel_values": "f32[b,3,32,32]"},
    ),
    "convnext": (
        lambda: hf.ConvNextForImageClassification(
            hf.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], image_size=64)
        ),
        {"pixel_values": "f32[b,3,64,64]"},
    ),
    "resnet": (
        lambda: hf.ResNetForImageClassification(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1])
        ),
        {"pixel_values": "f32[b,3,40,40]"},
    ),
    "t5": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, decoder_start_token_id=0)),
        {**TEXT, "decoder_input_ids": "i64[b,t]"},
    ),
    "mixtral": (
        lambda: hf.MixtralForCausalLM(
            hf.MixtralConfig(**TINY, **TOKENS, num_key_value_heads=2, num_local_experts=4)
        ),
        TEXT,
    ),
    "bart": (
        lambda: hf.BartForConditionalGeneration(
            hf.BartConfig(
                vocab_size=97, d_model=32, encoder_layers=1, decoder_layers=1,
                encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
                decoder_ffn_dim=48, max_position_embeddings=64, **TOKENS, decoder_start_token_id=2,
            )
        ),
        {**TEXT, "decoder_input_ids": "i64[b,t]"},
    ),
    "clip": (
        lambda: hf.CLIPModel(
            hf.CLIPConfig(
                text_config={**TINY, **TOKENS}, vision_config=VISION, projection_dim=16
            )
        ),
        {**TEXT, "pixel_values": "f32[b,3,32,32]"},
    ),
    "wav2vec2": (
        lambda: hf.Wav2Vec2ForSequenceClassification(
            hf.Wav2Vec2Config(
                **{k: TINY[k] for k in list(TINY)[:5]},
                conv_dim=[8, 8], conv_kernel=[10, 3], conv_stride=[5, 2],
                num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=8,
            )
        ),
        {"input_values": "f32[b,16000]"},
    ),
    "whisper": (
        lambda: hf.WhisperModel(
            hf.WhisperConfig(
                vocab_size=97, d_model=32, encoder_layers=1, decoder_layers=1,
                encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
                decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=20,
                max_target_positions=32, **TOKENS, decoder_start_token_id=1,
            )
        ),
        {"input_features": "f32[b,8,40]", "decoder_input_ids": "i64[b,t]"},
    ),
}  # fmt: skip


def make(name: str, folder: Path) -> Any:
    """A tiny model with random weights, and its folder."""
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    make("bert", folder)
    return folder


@pytest.fixture
def copied(bert: Path, tmp_path: Path) -> Path:
    """A folder that a test may break."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def inputs(types: dict[str, str], b: int, s: int, t: int) -> dict[str, torch.Tensor]:
    """Tensors of these types at other sizes than the trace's."""
    torch.manual_seed(b)
    found = {}
    for name, text in types.items():
        parts = text.partition("[")[2].rstrip("]").split(",")
        shape = [{"b": b, "s": s, "t": t}[n] if n.isalpha() else int(n) for n in parts]
        integers = torch.ones(shape, dtype=torch.int64)
        if name.endswith("input_ids"):
            integers = torch.randint(3, 97, shape)
        found[name] = torch.randn(shape) if text[0] == "f" else integers
    return found


QUICK = ("bert", "whisper")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in sorted(MODELS)],
)
def test_a_folder_computes_what_it_was_saved_from(name: str, tmp_path: Path) -> None:
    model = make(name, tmp_path)
    if name == "resnet":
        (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 40}}')
    loaded = load_model(tmp_path)
    types = MODELS[name][1]
    assert {op.name: str(op.type) for op in loaded.graph.inputs} == types
    assert loaded.format == "Hugging Face folder"
    told = {"mixtral": 1, "wav2vec2": 1}  # a branch on data; a weight norm, computed at load
    assert len(loaded.notes) == told.get(name, 0)
    assert loaded.example is not None
    assert len(loaded.example) == len(types)
    values = inputs(types, 4, 13, 7)
    with torch.no_grad():
        wanted = model(**values, use_cache=False) if "input_ids" in types else model(**values)
        got = lower(loaded.graph)(*values.values())
    assert "past_key_values" not in got
    for key, value in got.items():
        for a, b in zip(tree_leaves(value), tree_leaves(wanted[key]), strict=True):
            # experts are summed in another order than by transformers' default
            assert torch.equal(a, b) or (name == "mixtral" and (a - b).abs().max() < 1e-6), key


# ---- how it may be written ---------------------------------------------------------------------


def same(a: Path, b: Path) -> bool:
    """Two folders give the same class and the same weights, and a network without a cache."""
    (first, _), (second, _) = read_folder(a), read_folder(b)
    assert type(first) is type(second)
    assert not second.config.use_cache  # type: ignore[union-attr]
    assert second.config.return_dict  # type: ignore[union-attr]
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_shards(bert: Path, tmp_path: Path) -> None:
    model = hf.BertForSequenceClassification.from_pretrained(bert)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same(bert, tmp_path)


def test_pickled_tensors(bert: Path, copied: Path) -> None:
    weights = safetensors.torch.load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    assert same(bert, copied)


def test_links_as_in_the_hub_cache(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        (tmp_path / file.name).symlink_to(file)
    assert same(bert, tmp_path)


def test_half_precision_is_kept(tmp_path: Path) -> None:
    model = hf.ViTModel(hf.ViTConfig(**VISION)).to(torch.bfloat16).eval()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="keep")
    assert str(loaded.graph.inputs[0].type) == "bf16[b,3,32,32]"
    x = torch.randn(3, 3, 32, 32).bfloat16()
    with torch.no_grad():
        assert torch.equal(lower(loaded.graph)(x)["pooler_output"], model(x).pooler_output)


def test_inputs_of_the_users_choice(bert: Path) -> None:
    loaded = load_model(bert, input_spec=["input_ids: i64[b,16]"])
    assert [str(op.type) for op in loaded.graph.inputs] == ["i64[b,16]"]
    data = (torch.randint(0, 97, (5, 12)), torch.ones(5, 12, dtype=torch.int64))
    loaded = load_model(bert, example=data)
    assert [op.name for op in loaded.graph.inputs] == ["input_ids", "attention_mask"]
    assert str(loaded.graph.inputs[0].type) == "i64[b,s]"


def test_a_size_that_cannot_be_open_is_noted(tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(13)

    loaded = load_model(Fixed(), input_spec=["x: f32[b,s]"], example=(torch.randn(3, 13),))
    assert loaded.notes == ("dimension s of x is fixed at 13: the model's code takes no other",)


def test_inputs_the_model_would_ignore(bert: Path) -> None:
    for options in (
        {"input_spec": ["input_ids: i64[b,s]", "attentionmask: i64[b,s]"]},
        {"example": {"input_ids": torch.ones(3, 4).long(), "mask": torch.ones(3, 4)}},
    ):
        with pytest.raises(CompresscError, match=r"CC204.*attention_mask.*mask"):
            load_model(bert, **options)  # type: ignore[arg-type]


def test_without_a_class_name_the_headless_model_is_read(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    del config["architectures"]
    (copied / "config.json").write_text(json.dumps(config))
    loaded = load_model(copied)
    assert "classifier.bias" in loaded.notes[0]
    assert "last_hidden_state" in loaded.graph.outputs


def test_nothing_is_fetched_and_the_environment_is_left_as_it_was(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    load_model(bert)
    assert "HF_HUB_OFFLINE" not in os.environ


# ---- what is refused ---------------------------------------------------------------------------


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def refused(folder: Path, code: str, *words: str) -> None:
    with pytest.raises(CompresscError) as caught:
        load_model(folder)
    text = str(caught.value)
    assert caught.value.code == code, text
    assert all(word in text for word in words), text
    assert caught.value.hint


def test_transformers_missing(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    refused(copied, "CC200", "compressc[transformers]")


@pytest.mark.parametrize("place", ["auto_map", "nested", "custom_generate"])
def test_code_in_the_folder_is_not_run(copied: Path, tmp_path: Path, place: str) -> None:
    canary = tmp_path / "canary"
    for name in ("modeling_evil", "configuration_evil"):
        (copied / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    auto = {"AutoConfig": "configuration_evil.C", "AutoModel": "modeling_evil.M"}
    edit(copied, **({"text_config": {"auto_map": auto}} if place == "nested" else {place: auto}))
    refused(copied, "CC201", place if place != "nested" else "text_config.auto_map")
    assert not canary.exists()


CODE = {
    "_attn_implementation": "evil/kernels",
    "fusion_config": {"patch_embeddings": {"x": "y"}},
    "transformers_weights": "../evil.safetensors",
    "distributed_config": {"tp_size": 2},
    "torch_dtype": "hub.load",
    "use_cache": True,
    "return_dict": False,
    "output_attentions": True,
    "base_model_tp_plan": {"x": "y"},
}


@pytest.mark.parametrize("kernels", ["evil/kernels", {"": "evil/kernels"}])
def test_keys_that_name_code_change_nothing(bert: Path, copied: Path, kernels: Any) -> None:
    edit(copied, **CODE, attn_implementation=kernels, dtype="__loader__")
    assert same(bert, copied)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "evil"}, "'evil'"),
        ({"model_type": ["bert"]}, "bert"),
        ({"model_type": None}, "None"),
        ({"architectures": ["EvilModel"]}, "EvilModel"),
        ({"architectures": ["models"]}, "models"),
        ({"architectures": ["__name__"]}, "__name__"),
        ({"architectures": ["PreTrainedModel"]}, "PreTrainedModel"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": [{"x": 1}]}, "x"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"hidden_size": 64}, ""),
        ({"hidden_size": "x"}, ""),
        ({"num_attention_heads": 0}, ""),
        ({"to_dict": 3}, ""),
    ],
)
def test_configurations_of_another_model(copied: Path, changes: dict[str, Any], words: str) -> None:
    edit(copied, **changes)
    refused(copied, "CC200", words)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 1_000_000},
        {"num_hidden_layers": 10**12},
        {"vocab_size": 10**12},
        {"vocab_size": 1_000_000, "hidden_size": 1_000_000, "num_attention_heads": 4},
        {"max_position_embeddings": 200_000_000},
        {"num_labels": 10**9},
        {"max_position_embeddings": 10**13},
    ],
)
def test_configurations_that_are_bombs(copied: Path, changes: dict[str, Any]) -> None:
    edit(copied, **changes)
    refused(copied, "CC200")


def test_broken_configurations(copied: Path) -> None:
    for text in ("", "[]", "[" * 100_000, "{", "{}", "3", '{"model_type": "bert"', "\ud800"):
        (copied / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        refused(copied, "CC200")
    (copied / "config.json").write_bytes(b" " * (17 << 20))
    refused(copied, "CC200", "MiB")


def test_what_is_no_regular_file(copied: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        path = copied / name
        data = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        refused(copied, "CC200", "no regular file")
        path.unlink()
        for target in ("/dev/zero", "nowhere", name):
            path.symlink_to(target)
            refused(copied, "CC200")
            path.unlink()
        path.write_bytes(data)


def test_a_folder_without_readable_weights(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "model.gguf")
    refused(copied, "CC200", "model.gguf", "save_pretrained")
    (copied / "model.gguf").unlink()
    refused(copied, "CC200", "no weights")


def test_the_folder_above_is_named_in_the_hint(copied: Path) -> None:
    refused(copied.parent, "CC200", str(copied))


def test_pickled_code_is_not_run(copied: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(canary), "w"))

    (copied / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.weight": Evil()}, copied / "pytorch_model.bin")
    refused(copied, "CC201", "save_pretrained")
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CompresscError, match="CC20"):
        load_model(copied)
    assert not canary.exists()


@pytest.mark.parametrize(
    "places",
    [
        {"x": "../model.safetensors"},
        {"x": "/etc/passwd"},
        {"x": "a/b.safetensors"},
        {"x": ["model.safetensors"]},
        {"x": "missing.safetensors"},
        {"x": "model.safetensors"},
        {"x": ".."},
        {},
        [],
    ],
)
def test_forged_indices(copied: Path, places: Any) -> None:
    index = {"metadata": {}, "weight_map": places}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(copied, "CC200")


def test_a_model_whose_inputs_are_unknown(tmp_path: Path) -> None:
    config = hf.TimeSeriesTransformerConfig(
        prediction_length=4, d_model=8, encoder_layers=1, decoder_layers=1,
        encoder_ffn_dim=8, decoder_ffn_dim=8, lags_sequence=[1, 2],
    )  # fmt: skip
    hf.TimeSeriesTransformerModel(config).save_pretrained(tmp_path)
    refused(tmp_path, "CC203", "past_values", "--input")
