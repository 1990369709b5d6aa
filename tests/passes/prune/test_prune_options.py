from __future__ import annotations

import pytest
import torch
from compressc_prune import Prune

from compressc.analysis import couple
from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.spec import make
from tests.passes.prune.prune_nets import digit_data, digit_images, kept_of, pruned
from tests.passes.prune.torch_pruning_groups import dependency_groups, side
from tests.unit.analysis.analysis_nets import symbolized


def widths(graph, *names: str) -> list[int]:
    return [graph[name].layer.weight.shape[0] for name in names]


def notes(context, op: str) -> str:
    return "; ".join(text for name, text in context.notes if name == op)


@pytest.mark.parametrize(("ratio", "left"), [(0.25, [12, 24]), (0.5, [8, 16]), (0.75, [4, 8])])
def test_ratio(ratio, left):
    after, context = pruned(symbolized("digits_cnn"), ratio=ratio)
    assert widths(after, "conv1", "pointwise") == left
    assert notes(context, "pointwise") == f"kept {left[1]} of 32 channels"


def test_inputs_and_outputs_keep_their_widths():
    graph = symbolized("digits_cnn")
    after, context = pruned(graph, ratio=0.5)
    assert after["stem.0"].layer.in_channels == 1
    assert after["head"].layer.out_features == 10
    assert after.type_of("head") == graph.type_of("head")
    assert notes(context, "head") == "skipped channels: width of the model's output"


@pytest.mark.parametrize(("step", "left"), [(1, [12, 23]), (4, [12, 24]), (8, [16, 24])])
def test_round_to(step, left):
    """12 of 16 and 23 of 32 are wanted; multiples of the step at or above them stay."""
    after, _ = pruned(symbolized("digits_cnn"), ratio=0.29, round_to=step)
    assert widths(after, "conv1", "pointwise") == left


def test_a_narrow_width_is_not_rounded_to_nothing():
    after, _ = pruned(symbolized("digits_cnn"), ratio=0.9, round_to=64)
    assert widths(after, "conv1", "pointwise") == [2, 4]


def test_magnitude_keeps_the_largest():
    graph = symbolized("digits_cnn")
    layer = graph["pointwise"].layer
    with torch.no_grad():
        layer.weight[1::2] *= 100
    after, _ = pruned(graph, ratio=0.5)
    assert kept_of(after, "pointwise", 1) == list(range(1, 32, 2))


def test_taylor_keeps_what_the_loss_depends_on():
    """Large weights that the head does not read are worth nothing to the loss."""
    graph = symbolized("digits_cnn")
    with torch.no_grad():
        graph["head"].layer.weight[:, ::2] = 0
        graph["pointwise"].layer.weight[::2] *= 5
        graph["pointwise"].layer.bias += 5  # no unit is dead
    by_size, _ = pruned(graph, ratio=0.5)
    by_loss, _ = pruned(graph, ratio=0.5, importance="taylor", data=digit_data())
    assert kept_of(by_size, "pointwise", 1) == list(range(0, 32, 2))
    assert kept_of(by_loss, "pointwise", 1) == list(range(1, 32, 2))
    assert all(tensor.grad is None for tensor in by_loss.tensors().values())


def test_taylor_needs_data():
    with pytest.raises(CompresscError, match="CC105"):
        pruned(symbolized("digits_cnn"), importance="taylor")


def test_global_ranking_takes_more_where_there_is_less_to_lose():
    graph = symbolized("digits_cnn")
    with torch.no_grad():  # two indices of the wide layer hold everything
        graph["pointwise"].layer.weight[2:] *= 1e-3
        graph["head"].layer.weight[:, 2:] *= 1e-3
    each, _ = pruned(graph, ratio=0.5)
    together, _ = pruned(graph, ratio=0.5, **{"global": True})
    assert widths(each, "conv1", "pointwise") == [8, 16]
    stem, wide = widths(together, "conv1", "pointwise")
    assert stem > 8
    assert wide < 16
    assert {0, 1} <= set(kept_of(together, "pointwise", 1))


@pytest.mark.parametrize(
    ("attention", "heads", "width"),
    [("heads", 2, 8), ("head_width", 4, 4), ("both", 2, 4), ("keep", 4, 8)],
)
def test_attention(attention, heads, width):
    after, context = pruned(symbolized("vit"), ratio=0.5, attention=attention)
    assert after.widths == {"w0": heads, "w1": width, "w2": heads, "w3": width}
    assert widths(after, "blocks.0.attn.qkv") == [3 * heads * width]
    text = notes(context, "blocks.0.attn.qkv")
    assert ("attention=" in text) == (attention != "both")
    assert widths(after, "blocks.0.mlp.0") == [32]


def test_normalized_widths_are_left_alone_unless_asked_for():
    graph = symbolized("vit")
    after, context = pruned(graph, ratio=0.5, attention="keep")
    assert widths(after, "patch") == [32]
    stream = "patch, blocks.0.attn.proj, blocks.0.mlp.3, blocks.1.attn.proj, blocks.1.mlp.3"
    assert notes(context, stream).startswith("skipped channels: a norm or mean runs over it")
    cut, _ = pruned(graph, ratio=0.5, attention="keep", normalized=True)
    assert widths(cut, "patch", "blocks.1.mlp.3") == [16, 16]
    assert cut["norm"].layer.normalized_shape == (16,)
    assert tuple(cut["pos"].layer.value.shape) == (1, 17, 16)
    assert lower(cut)(digit_images(3)).shape == (3, 10)


@pytest.mark.parametrize("options", [{"ratio": 0}, {"ratio": 1}, {"round_to": 0}, {"ratios": 0.5}])
def test_bad_options(options):
    with pytest.raises(CompresscError, match="CC102"):
        make(Prune, options)


@pytest.mark.parametrize(("ratio", "left"), [(0.9, 4), (0.95, 3)])
def test_a_ratio_that_would_empty_a_width_is_said(ratio, left):
    """A tenth of each stays, whatever is asked for; 10 % of 32 are four, a tenth three."""
    graph = symbolized("digits_cnn")
    after, context = pruned(graph, ratio=ratio)
    assert widths(after, "pointwise") == [left]
    assert ("a tenth of each stays" in notes(context, graph.name)) == (ratio > 0.9)


def test_where_nothing_may_be_cut_the_graph_stays():
    graph = symbolized("padded")
    after, context = pruned(graph, ratio=0.5)
    assert str(after) == str(graph)
    assert notes(context, "stem") == "skipped channels: padded at %pad"


@torch.no_grad()
def test_two_prunings_compose_to_teacher_indices():
    graph = symbolized("digits_cnn")
    once, _ = pruned(graph, ratio=0.5)
    twice, _ = pruned(once, ratio=0.5)
    first, both = kept_of(once, "pointwise", 1), kept_of(twice, "pointwise", 1)
    assert len(both) == 8
    assert set(both) < set(first)
    # the values themselves: what is left of the teacher's weight, row by row
    columns = kept_of(twice, "conv1", 1)
    want = graph["pointwise"].layer.weight[both][:, columns]
    assert torch.equal(twice["pointwise"].layer.weight, want)
    assert str(once) != str(twice)


@torch.no_grad()
def test_a_second_pruning_of_heads():
    once, _ = pruned(symbolized("vit"), ratio=0.25)
    twice, _ = pruned(once, ratio=0.34)
    assert (once.widths["w0"], twice.widths["w0"]) == (3, 2)
    assert lower(twice)(digit_images(2)).shape == (2, 10)


def test_torch_prunings_groups_are_ours_on_the_cnn():
    """An oracle by autograd: which layers torch-pruning's own dependency graph couples."""
    graph = symbolized("digits_cnn")
    theirs = {frozenset(group) for group in dependency_groups(graph)}
    ours = {
        frozenset(side(graph, slot) for slot in width.slots)
        for width in couple(graph).widths()
        if width.producers
    }
    assert theirs == ours


def test_the_text_says_what_is_left():
    after, _ = pruned(symbolized("digits_cnn"), ratio=0.5)
    kept = kept_of(after, "pointwise", 1)
    line = next(line for line in str(after).splitlines() if line.startswith("  %pointwise ="))
    assert "{in=8, out=16, kernel=1}" in line
    assert ": f32[b,16,4,4]" in line
    assert f"kept 1:{kept[0]}" in line
