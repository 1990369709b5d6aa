"""The format huggingface: a configuration that says the cut, and a folder that others load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import compressc
from compressc.backend.configuring import blank_model, find_config
from compressc.errors import CompresscError
from compressc.target import Target
from tests.zoo.sizes import BERT, LLAMA, VIT

hf = pytest.importorskip("transformers")

GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
DISTIL = {"vocab_size": 97, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
MIXTRAL = {**LLAMA, "num_local_experts": 8}
QWEN_MOE = {**LLAMA, "num_experts": 8, "moe_intermediate_size": 24}
GLM_MOE = {**LLAMA, "n_routed_experts": 8, "moe_intermediate_size": 24}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


@pytest.mark.parametrize(
    ("class_", "config", "keys", "cut"),
    [
        (hf.BertModel, hf.BertConfig, BERT, {"intermediate_size": 24}),
        (hf.BertModel, hf.BertConfig, BERT, {"hidden_size": 16, "num_attention_heads": 2}),
        (hf.RobertaModel, hf.RobertaConfig, BERT, {"intermediate_size": 16}),
        (hf.DistilBertModel, hf.DistilBertConfig, DISTIL, {"hidden_dim": 40}),
        (hf.GPT2LMHeadModel, hf.GPT2Config, GPT2, {"n_inner": 72}),
        (hf.LlamaForCausalLM, hf.LlamaConfig, LLAMA, {**HEADS, "intermediate_size": 24}),
        (hf.Qwen2ForCausalLM, hf.Qwen2Config, LLAMA, HEADS),
        (hf.ViTModel, hf.ViTConfig, VIT, {"num_attention_heads": 2, "head_dim": 8}),
        (hf.MixtralForCausalLM, hf.MixtralConfig, MIXTRAL, {"num_local_experts": 4}),
        (hf.Qwen2MoeForCausalLM, hf.Qwen2MoeConfig, QWEN_MOE, {"num_experts": 6}),
        (hf.Glm4MoeForCausalLM, hf.Glm4MoeConfig, GLM_MOE, {"n_routed_experts": 4}),
    ],
)
def test_the_configuration_of_a_cut_is_found_from_its_weights(class_, config, keys, cut):
    wanted = config(**{**keys, **cut})
    found = find_config(class_, config(**keys), blank_model(class_, wanted, "cpu"))
    assert {key: getattr(found, key) for key in cut} == cut


def compiled(model, passes, inputs=("input_ids: i64[b,s]", "attention_mask: i64[b,s]")):
    target = Target(backends=("huggingface",))
    return compressc.compile(model, passes, inputs=inputs, cache=None, target=target)


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    model = hf.BertModel(hf.BertConfig(**{**BERT, "num_hidden_layers": 4})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


_LOAD = """
import sys, torch, transformers
model = transformers.AutoModel.from_pretrained(sys.argv[1]).eval()
ids, mask, wanted = torch.load(sys.argv[2])
with torch.no_grad():
    got = model(ids, attention_mask=mask).last_hidden_state
assert not any(name.startswith("compressc") for name in sys.modules)
print(len(model.encoder.layer), float((got - wanted).abs().max() / wanted.abs().max()))
"""


def test_others_load_the_folder(bert, tmp_path):
    c = compiled(bert, "student(depth=0.5),prune(ratio=0.5,uniform=true,attention=keep)")
    (record,) = c.save(tmp_path / "out", batches=()).files
    folder = tmp_path / "out" / "huggingface"
    assert record.path == "huggingface"
    assert record.bytes < 0.7 * record.teacher_bytes
    keys = json.loads((folder / "config.json").read_text())
    assert (keys["num_hidden_layers"], keys["intermediate_size"]) == (2, 24)
    ids, mask = torch.randint(0, 97, (3, 7)), torch.ones(3, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    wanted = c.module()(ids, mask)["last_hidden_state"].detach()
    torch.save((ids, mask, wanted), tmp_path / "case.pt")
    command = [sys.executable, "-c", _LOAD, str(folder), str(tmp_path / "case.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    alone = compressc.backend.load_backend("huggingface").load(folder)  # nobody told it how
    torch.testing.assert_close(alone(ids, mask)[0], wanted)
    blocks, error = done.stdout.split()
    assert blocks == "2"
    assert float(error) < 1e-5


@pytest.mark.slow
def test_fewer_experts_are_read_back(tmp_path):
    torch.manual_seed(0)
    model = hf.MixtralForCausalLM(hf.MixtralConfig(**MIXTRAL, experts_implementation="batched_mm"))
    for parameter in model.eval().parameters():
        nn.init.normal_(parameter, std=0.3)
    c = compiled(model, "prune(experts=0.5)", ("input_ids: i64[b,s]",))
    c.save(tmp_path, batches=())
    again = hf.MixtralForCausalLM.from_pretrained(tmp_path / "huggingface").eval()
    assert (again.config.num_local_experts, again.config.num_experts_per_tok) == (4, 2)
    assert again.model.layers[0].mlp.gate.weight.shape[0] == 4
    ids = torch.randint(3, 97, (2, 9))
    with torch.no_grad():
        got, wanted, full = (m(ids) for m in (again, c.module(), model))
    torch.testing.assert_close(got.logits, wanted["logits"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got.logits, full.logits, atol=1e-2)


@pytest.mark.parametrize(
    ("passes", "layer", "hint"),
    [
        ("prune(ratio=0.5)", "encoder.layer.0.attention.self.query", "prune(attention=keep)"),
        ("lowrank(rank=4)", "embeddings.word_embeddings.0", "leave lowrank"),
        ("quant(mode=weights)", "%embeddings.word_embeddings", "leave quant out"),
    ],
)
def test_what_no_configuration_says_is_refused_by_name(bert, tmp_path, passes, layer, hint):
    c = compiled(bert, passes)
    backend = compressc.backend.load_backend("huggingface").of(c.teacher, c.origin)
    with pytest.raises(CompresscError) as caught:
        backend.emit(c.graph, tmp_path, ())
    error = caught.value
    assert (error.code, error.where) == ("CC503", layer)
    assert hint in error.hint
    assert not (tmp_path / "huggingface").exists()


def test_blocks_of_unlike_widths_are_told_what_makes_them_alike():
    config = hf.BertConfig(**BERT)
    model = blank_model(hf.BertModel, config, "cpu")
    model.encoder.layer[1].intermediate.dense = nn.Linear(32, 40)
    model.encoder.layer[1].output.dense = nn.Linear(40, 32)
    with pytest.raises(CompresscError, match=r"CC503.*layer\.1\.inter.*prune\(uniform=true\)"):
        find_config(hf.BertModel, config, model)


def test_a_model_that_is_not_of_transformers_is_refused_before_any_pass():
    with pytest.raises(CompresscError, match=r"CC503.*models of transformers.*got Sequential"):
        compiled(nn.Sequential(nn.Linear(4, 3)), "prune", inputs=("f32[b,4]",))
