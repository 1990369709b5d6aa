"""Sliced equals zeroed: pruning is correct exactly if cut channels and channels of zeros agree.

The first tests zero the *consumers* of removed channels in the user's own `nn.Module`, by hand:
nothing of the coupling analysis is used there. Activations of zeroed producers need not be zero.
"""

from __future__ import annotations

import pytest
import torch

from compressc.ir import lower, parse_graph
from tests.passes.prune.prune_nets import (
    digit_images,
    inputs_of,
    kept_of,
    pruned,
    relative,
    removed,
    zeroed,
)
from tests.unit.analysis.analysis_nets import net, symbolized

TOLERANCE = 1e-5
BATCHES = (1, 7)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@torch.no_grad()
def test_cnn_on_digits(importance):
    from tests.passes.prune.prune_nets import digit_data

    options = {"ratio": 0.5, "importance": importance, "statistics": False}  # zeros change none
    after, _ = pruned(symbolized("digits_cnn"), data=digit_data(), refit=False, **options)
    module, _ = net("digits_cnn")
    stem = removed(16, kept_of(after, "stem.0", 1))
    wide = removed(32, kept_of(after, "pointwise", 1))
    assert (len(stem), len(wide)) == (8, 16)
    for weight, dead in (
        (module.conv1.weight, stem),
        (module.pointwise.weight, stem),
        (module.head.weight, wide),
    ):
        weight[:, dead] = 0
    for batch in BATCHES:
        x = digit_images(batch)
        assert relative(lower(after)(x), module(x)) < TOLERANCE


@torch.no_grad()
def test_fused_attention_on_digits():
    """Whole heads and MLP channels; head widths too, where q and k are zeroed at their own rows."""
    after, _ = pruned(symbolized("vit"), ratio=0.5, attention="both")
    module, _ = net("vit")
    for i, block in enumerate(module.blocks):
        joined = set(kept_of(after, after[f"blocks.{i}.attn.proj"].args[0].name, 2))
        heads = sorted({index // 8 for index in joined})
        width = sorted({index % 8 for index in joined})
        assert (len(heads), len(width)) == (2, 4)
        assert joined == {h * 8 + w for h in heads for w in width}
        gone = removed(32, sorted(joined))
        block.attn.proj.weight[:, gone] = 0
        for part in (0, 1):  # q and k
            block.attn.qkv.weight[[part * 32 + row for row in gone]] = 0
            block.attn.qkv.bias[[part * 32 + row for row in gone]] = 0
        hidden = removed(64, kept_of(after, f"blocks.{i}.mlp.0", 2))
        block.mlp[3].weight[:, hidden] = 0
    for batch in BATCHES:
        x = digit_images(batch)
        assert relative(lower(after)(x), module(x)) < TOLERANCE


@pytest.mark.parametrize("name", ["gqa_repeat", "gqa_flag"])
@torch.no_grad()
def test_grouped_queries(name):
    """Groups of heads go as a whole: 4 key heads of 2 queries each, half of them stay."""
    after, _ = pruned(symbolized(name), ratio=0.5)
    module, _ = net(name)
    queries, keys = kept_of(after, "q", 2), kept_of(after, "k", 2)
    groups = sorted({index // 6 for index in keys})
    assert keys == kept_of(after, "v", 2) == [g * 6 + w for g in groups for w in range(6)]
    assert len(groups) == 2
    assert queries == [(g * 2 + r) * 6 + w for g in groups for r in range(2) for w in range(6)]
    module.o.weight[:, removed(48, queries)] = 0
    module.down.weight[:, removed(24, kept_of(after, "gate", 2))] = 0
    for batch in BATCHES:
        x = torch.randn(batch, 5, 20)
        assert relative(lower(after)(x), module(x)) < TOLERANCE


EVERYTHING = """dense_net u_net gqa_repeat mqa rotary split_qkv shuffle_in_line grouped
transformer_encoder cross_attention squeeze_excite plain_matrices tied_weights"""


@pytest.mark.parametrize("name", EVERYTHING.split())
@torch.no_grad()
def test_the_zoo(name):
    graph = symbolized(name)
    after, _ = pruned(graph, ratio=0.4, attention="both")
    assert after.edits["set_layer"]
    full = zeroed(graph, after)
    for batch in BATCHES:
        inputs = inputs_of(name, batch)
        want, got = (_first(module(*inputs)) for module in (full, lower(after)))
        assert got.shape == want.shape
        assert relative(got, want) < TOLERANCE
    text = str(after)
    again = parse_graph(text, after.tensors())
    assert str(again) == text
    assert torch.equal(_first(lower(again)(*inputs)), got)


def _first(output):
    return output[0] if isinstance(output, tuple | list) else output


@pytest.mark.parametrize("name", ["digits_cnn", "gqa_repeat"])
def test_backward_reaches_every_weight(name):
    after, _ = pruned(symbolized(name), ratio=0.5)
    module = lower(after)
    module(*inputs_of(name, 3)).square().sum().backward()
    for tensor_name, tensor in after.tensors().items():
        if isinstance(tensor, torch.nn.Parameter):
            assert tensor.grad is not None, tensor_name
            assert tensor.grad.shape == tensor.shape


@pytest.mark.parametrize("name", ["digits_cnn", "vit", "transformer_encoder"])
@torch.no_grad()
def test_a_pruned_graph_exports_with_an_open_batch(name):
    after, _ = pruned(symbolized(name), ratio=0.5)
    module = lower(after)
    example = inputs_of(name, 5)
    shapes = tuple({0: torch.export.Dim("batch", min=1, max=4096)} for _ in example)
    program = torch.export.export(module, example, dynamic_shapes=shapes)
    for batch in (2, 9):
        inputs = inputs_of(name, batch)
        assert relative(program.module()(*inputs), module(*inputs)) < TOLERANCE
