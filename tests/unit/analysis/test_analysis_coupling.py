from __future__ import annotations

import pytest
import torch

from compressc.analysis import Coupling, Width, couple
from tests.unit.analysis.analysis_nets import baked, symbolized


def width_of(found: Coupling, *producers: str, role: str = "") -> Width:
    """The width that exactly these layers make, of that role."""
    fits = [w for w in found.widths() if set(w.producers) == set(producers) and w.axis.role == role]
    assert len(fits) == 1, [(w.producers, w.axis.role) for w in found.widths()]
    return fits[0]


def slots(width: Width) -> set[tuple[str, str, int]]:
    return {(slot.op, slot.tensor, slot.dim) for slot in width.slots}


def test_residual_and_depthwise_channels_are_one_width():
    width = width_of(couple(baked("digits_cnn")), "stem.0", "conv1", "depthwise")
    norms = ("weight", "bias", "running_mean", "running_var")
    assert slots(width) == {
        ("stem.0", "weight", 0),
        *(("stem.1", tensor, 0) for tensor in norms),
        ("conv1", "weight", 1),
        ("conv1", "weight", 0),
        *(("bn1", tensor, 0) for tensor in norms),
        ("depthwise", "weight", 0),
        *(("bn2", tensor, 0) for tensor in norms),
        ("pointwise", "weight", 1),
    }
    assert width.size == 16
    assert not width.axis.frozen
    assert not width.axis.normalized


def test_inputs_and_outputs_keep_their_widths():
    found = couple(baked("digits_cnn"))
    assert width_of(found, "head").axis.frozen == "width of the model's output"


def test_fused_qkv_has_heads_and_head_widths():
    found = couple(symbolized("vit"))
    heads = width_of(found, "blocks.0.attn.qkv", role="heads")
    inner = width_of(found, "blocks.0.attn.qkv", role="head width")
    assert (heads.size, inner.size) == (4, 8)
    assert (heads.symbol, inner.symbol) == ("w0", "w1")
    places = {("blocks.0.attn.qkv", "weight", 0), ("blocks.0.attn.qkv", "bias", 0)}
    assert slots(heads) == slots(inner) == places | {("blocks.0.attn.proj", "weight", 1)}
    hidden = width_of(found, "blocks.0.mlp.0")
    assert slots(hidden) == {
        ("blocks.0.mlp.0", "weight", 0),
        ("blocks.0.mlp.0", "bias", 0),
        ("blocks.0.mlp.3", "weight", 1),
    }


def test_the_residual_stream_of_a_transformer_is_normalized():
    stream = next(w for w in couple(baked("vit")).widths() if "patch" in w.producers)
    assert stream.axis.normalized
    assert {"cls", "pos"} <= {slot.op for slot in stream.slots}


@pytest.mark.parametrize("name", ["gqa_repeat", "gqa_flag"])
def test_grouped_queries(name):
    found = couple(symbolized(name))
    groups = width_of(found, "q", "k", "v", role="heads")
    inner = [w for w in found.widths() if w.axis.role == "head width"]
    queries = width_of(found, "q", role="queries per head")
    assert (groups.size, queries.size) == (4, 2)
    assert slots(queries) == {("q", "weight", 0), ("q", "bias", 0), ("o", "weight", 1)}
    assert ("o", "weight", 1) in slots(groups)
    # what q and k are compared along need not be what v carries: two widths
    assert [(set(w.producers), w.size) for w in inner] == [({"q", "k"}, 6), ({"v"}, 6)]


def test_with_one_key_head_the_queries_are_the_heads():
    assert width_of(couple(symbolized("mqa")), "q", role="heads").size == 8


def test_gate_and_up_projections_are_one_width():
    width = width_of(couple(baked("gqa_flag")), "gate", "up")
    assert ("down", "weight", 1) in slots(width)
    assert width.size == 24


def test_rotary_head_widths_are_frozen_and_the_heads_are_not():
    found = couple(symbolized("rotary"))
    heads = next(w for w in found.widths() if w.axis.role == "heads")
    turned = [w for w in found.widths() if set(w.producers) == {"q", "k"} and w is not heads]
    assert not heads.axis.frozen
    assert turned
    for width in turned:
        assert width.axis.frozen or width.size == 3  # halves may only be cut alike


def test_split_qkv_and_written_out_attention():
    found = couple(symbolized("split_qkv"))
    roles = {w.axis.role: (w.size, w.axis.frozen) for w in found.widths() if w.axis.role}
    assert roles == {"heads": (4, ""), "head width": (6, "")}


def test_multihead_attention_of_torch_has_heads():
    """`[b * heads, n, d]` operands of bmm."""
    found = couple(symbolized("cross_attention"))
    assert width_of(found, "attn.in_proj_0", "attn.in_proj_1", role="heads").size == 4


def test_concatenations_keep_their_parts_apart():
    found = couple(baked("dense_net"))
    stem = width_of(found, "stem")
    readers = {slot.op for slot in stem.slots}
    assert readers == {
        *("stem", "norms.0", "norms.1", "norms.2"),
        *("layers.0", "layers.1", "layers.2", "transition"),
    }
    last = width_of(found, "layers.2")
    assert {slot.op for slot in last.slots} == {"layers.2", "transition"}


def test_a_skip_over_a_transposed_convolution_and_an_interpolation():
    found = couple(baked("u_net"))
    up = width_of(found, "up1")
    assert slots(up) == {("up1", "weight", 1), ("up1", "bias", 0), ("fuse1", "weight", 1)}
    assert ("up1", "weight", 0) in slots(width_of(found, "middle"))
    assert not width_of(found, "fuse1").axis.frozen
    assert not found.reasons


def test_a_misaligned_shuffle_freezes():
    found = couple(baked("shuffle"))
    for width in found.widths():
        if "first" in width.producers:
            assert width.axis.frozen == "reshaped in ways that do not line up"


def test_a_shuffle_into_groups_that_line_up_can_be_cut():
    """Outermost behind the shuffle are 4 groups, which were innermost before it."""
    groups = width_of(couple(baked("shuffle_in_line")), "first", "second")
    assert (groups.size, groups.axis.frozen) == (4, "")


def test_grouped_convolutions_are_cut_by_group_or_within_every_group():
    found = couple(baked("grouped"))
    groups = width_of(found, "stem", "grouped", "up")
    assert groups.size == 3
    assert ("grouped", "weight", 0) in slots(groups)
    assert ("grouped", "weight", 1) not in slots(groups)
    within = width_of(found, "stem")
    assert within.size == 4
    assert ("grouped", "weight", 1) in slots(within)
    # what the transposed one makes is flattened with 64 positions into the head
    made = width_of(found, "up")
    assert (made.size, ("head", "weight", 1) in slots(made)) == (2, True)
    assert [name for name, _ in found.groups] == ["grouped", "up"]


def test_tied_weights_are_cut_together():
    found = couple(baked("tied_weights"))
    width = width_of(found, "embedding", "mix")
    assert {("embedding", "weight", 1), ("head", "weight", 1)} <= slots(width)
    rows = next(w for w in found.widths() if w.size == 23)
    assert rows.axis.frozen


def test_padded_channels_are_frozen_on_both_sides():
    found = couple(baked("padded"))
    assert {w.axis.frozen for w in found.widths() if w.producers == ("stem",)} == {"padded"}
    assert width_of(found, "wide").axis.frozen == "padded"


def test_a_norm_without_weights_and_a_running_sum_freeze():
    found = couple(baked("bare_norm"))
    assert "without weights" in width_of(found, "a").axis.frozen
    assert "running sum" in width_of(found, "b").axis.frozen


def test_an_op_without_a_rule_freezes_what_it_touches_and_says_so():
    class Crossed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)

        def forward(self, x):
            x = self.a(x)
            return self.b(torch.kron(x, torch.ones(2, 1)))

    from compressc.frontend import export_module, import_program

    graph = import_program(export_module(Crossed().eval(), (torch.randn(4, 4),)), "crossed")
    found = couple(graph)
    (name, reason) = next(iter(found.reasons.items()))
    assert name.startswith("kron")
    assert "no coupling rule" in reason
    assert width_of(found, "a").axis.frozen == reason


def test_many_open_dimensions():
    class Many(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 3)

        def forward(self, *inputs):
            return [self.fc(x) for x in inputs]

    from compressc.frontend import export_module, import_program

    inputs = tuple(torch.randn(3 + i, 4) for i in range(9))
    graph = import_program(export_module(Many().eval(), inputs), "many")
    assert len({str(graph.type_of(op.name).shape[0]) for op in graph.inputs}) == 9
    found = couple(graph)
    assert [(w.producers, w.size, w.axis.frozen) for w in found.widths()] == [
        (("fc", *(f"fc_{i}" for i in range(1, 9))), 3, "width of the model's output"),
        ((), 4, "width of the model's input"),
    ]


class Attending(torch.nn.Module):
    """Widths that a linear layer makes and a softmax runs over, or stand beside such a one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.q, self.v = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
        self.made, self.out = torch.nn.Linear(8 if how != "keys" else 6, 6), torch.nn.Linear(4, 3)
        self.gate = torch.nn.Linear(6, 4)

    def forward(self, x):
        q, v = self.q(x), self.v(x)
        if self.how == "keys":  # positions are mixed to others, as Linformer does
            k, v = (self.made(t.mT).mT for t in (q, v))
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        elif self.how == "mask":
            y = torch.nn.functional.scaled_dot_product_attention(q, q, v, attn_mask=self.made(x))
        else:
            y = self.gate(self.made(x).softmax(-1)) * v
        return self.out(y)


@pytest.mark.parametrize("how", ["keys", "mask", "scores"])
def test_what_a_softmax_runs_over_is_frozen(how):
    from compressc.testing import export_graph

    graph = export_graph(Attending(how).eval(), torch.randn(5, 6, 8))
    width = next(w for w in couple(graph).widths() if "made" in w.producers)
    # a mask has the positions of the keys, which are those of the input
    wanted = "width of the model's input" if how == "mask" else "a softmax runs over it"
    assert width.axis.frozen == wanted
