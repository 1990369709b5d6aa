"""Every kind of difference, each where it is and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compressc.analysis import difference, match_kin
from compressc.analysis.block_names import joint_name
from compressc.ir import Graph, Op, Ref, TensorType, parse_graph, print_graph, symbol
from compressc.testing import export_graph

TEXT = """graph g(%x: f32[b,8]) {
  %a = linear(%x) {in=8, out=6} @a.weight @a.bias : f32[b,6]   # from a
  %act = relu(%a) : f32[b,6]   # from act
  %n = layer_norm(%act) {shape=[6]} @n.weight @n.bias : f32[b,6]   # from n
  %z = linear(%n) {in=6, out=2} @z.weight @z.bias : f32[b,2]   # from z
  return %z
}"""


def graphs(*edits: tuple[str, str]) -> tuple[Graph, Graph]:
    """The text, and the text with pieces of it replaced."""
    changed = TEXT
    for old, new in edits:
        assert old in changed
        changed = changed.replace(old, new)
    return parse_graph(TEXT), parse_graph(changed)


def told(*edits: tuple[str, str]) -> list[tuple[str, str, str]]:
    found = difference(*graphs(*edits), b=1)
    assert found.equal == (not found.changes)
    return [(c.status, ",".join(c.before), ",".join(c.after)) for c in found.changes]


def test_equal():
    before, after = graphs()
    found = difference(before, after, b=3)
    assert found.equal
    assert found.rows() == []
    assert (found.same, found.ops) == (5, (5, 5))
    assert found.cost_before == found.cost_after


def test_resized():
    edits = [("out=6", "out=4"), ("in=6", "in=4"), ("[6]", "[4]"), ("b,6]", "b,4]")]
    assert told(*edits) == [
        ("resized", "a", "a"),
        ("resized", "act", "act"),
        ("resized", "n", "n"),
        ("resized", "z", "z"),
    ]
    rows = difference(*graphs(*edits), b=1).rows()
    assert [(row.name, row.detail) for row in rows] == [
        ("a", "out 6 -> 4"),
        ("n", "shape 6 -> 4"),
        ("z", "in 6 -> 4"),
        ("act", "type f32[b,6] -> f32[b,4]"),
    ]
    first = rows[0]
    assert (first.cost_before.parameters, first.cost_after.parameters) == (54, 36)
    assert (first.cost_before.macs, first.cost_after.macs) == (48, 32)


def test_changed_settings_are_no_sizes():
    assert told(("{shape=[6]}", "{shape=[6], eps=0.001}")) == [("changed", "n", "n")]
    (row,) = difference(*graphs(("{shape=[6]}", "{shape=[6], eps=0.001}"))).rows()
    assert row.detail == "eps"


def test_replaced_by_another_kind():
    assert told(("relu(%a)", "silu(%a)")) == [("replaced", "act", "act")]


def test_removed_and_its_reader_only_follows():
    edits = [("  %act = relu(%a) : f32[b,6]   # from act\n", ""), ("(%act)", "(%a)")]
    assert told(*edits) == [("removed", "act", "")]


def test_added():
    line = "  %z = linear"
    extra = "  %new = aten.neg(%n) : f32[b,6]\n  %z = linear"
    assert told((line, extra), ("linear(%n)", "linear(%new)")) == [("added", "", "new")]


def test_rewired():
    """The norm reads the layer, past the activation that something else still reads."""
    edits = [("layer_norm(%act)", "layer_norm(%a)"), ("return %z", "return [%z, %act]")]
    assert ("rewired", "n", "n") in told(*edits)


def test_outputs():
    before, after = graphs(("return %z", "return %n"))
    found = difference(before, after, b=1)
    assert found.changes == ()
    assert found.outputs_differ
    assert not found.equal
    before, after = graphs(("return %z", "return [%z]"))
    assert not difference(before, after, b=1).equal


def test_lineage_of_two_factors():
    """A layer in two stands beside the layer, whatever they are called."""
    old = "  %a = linear(%x) {in=8, out=6} @a.weight @a.bias : f32[b,6]   # from a\n"
    new = (
        "  %low = linear(%x) {in=8, out=2, bias=false} @low.weight : f32[b,2]   # from a\n"
        "  %high = linear(%low) {in=2, out=6} @high.weight @high.bias : f32[b,6]   # from a\n"
    )
    edits = [(old, new), ("relu(%a)", "relu(%high)")]
    assert told(*edits) == [("replaced", "a", "low,high")]
    (row,) = difference(*graphs(*edits)).rows()
    assert (row.kind, row.detail) == ("linear -> linear, linear", "8x6 -> 8x2, 2x6")


def test_lineage_of_a_folded_norm():
    """The norm went into the layer behind it."""
    old = "  %n = layer_norm(%act) {shape=[6]} @n.weight @n.bias : f32[b,6]   # from n\n"
    edits = [(old, ""), ("linear(%n)", "linear(%act)"), ("# from z", "# from n, z")]
    assert told(*edits) == [("removed", "n", "")]


def test_names_are_nothing_beside_lineage():
    assert told(("%act", "%other"), ("%a)", "%a)")) == []


def test_what_reads_the_same_is_the_same():
    """An exported file forgets where a bare call stood."""
    before = parse_graph(TEXT.replace("# from act", "").replace("%act", "%stage.act"))
    after = parse_graph(TEXT.replace("# from act", "").replace("%act", "%relu_7"))
    assert difference(before, after, b=1).equal
    kin = {k.before[0].name: k.after[0].name for k in match_kin(before, after)}
    assert kin["stage.act"] == "relu_7"


def test_retrained():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    before = export_graph(module, torch.randn(3, 4))
    after = before.copy()
    with torch.no_grad():
        after["2"].layer.bias.add_(1)
    assert difference(before, before.copy()).equal
    (change,) = difference(before, after).changes
    assert (change.status, change.before) == ("retrained", ("2",))
    assert difference(before, parse_graph(print_graph(after))).equal  # text has no weights


class Layer(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def deep(*inner: int) -> Graph:
    module = nn.Sequential(*(Layer(8, width) for width in inner))
    torch.manual_seed(0)  # the head is the same whatever is in front of it
    return export_graph(nn.Sequential(module, nn.Linear(8, 2)), torch.randn(3, 8))


def test_repeated_blocks_are_told_once():
    """Twelve layers, each cut to a width of its own: three rows and a line."""
    found = difference(deep(*[16] * 12), deep(*range(4, 16)), b=1)
    assert len(found.changes) == 36
    up, down, relu = found.rows()
    assert (up.name, up.count, up.detail) == ("0.{0..11}.up", 12, "out 16 -> 4..15")
    assert (down.name, down.detail) == ("0.{0..11}.down", "in 16 -> 4..15")
    assert (relu.count, relu.weighs) == (12, False)
    assert up.cost_before.macs == 12 * 8 * 16
    assert up.cost_after.macs == 8 * sum(range(4, 16))
    assert len(found.rows(every=True)) == 36


def test_layers_that_are_gone():
    """Depth cut from twelve layers to eight: whole layers are removed, none is said to change."""
    before, after = deep(*[16] * 12), deep(*[16] * 8)
    with torch.no_grad():
        for op in after:
            if op.layer is not None:
                source = "1" if op.name == "1" else op.name
                op.layer.load_state_dict(before[source].layer.state_dict())
    found = difference(before, after, b=1)
    assert {change.status for change in found.changes} == {"removed"}
    assert [row.name for row in found.rows() if row.weighs] == [
        "0.{8..11}.norm", "0.{8..11}.up", "0.{8..11}.down"
    ]  # fmt: skip


def test_a_graph_without_kin():
    """Other names, other kinds: all of one side is gone, all of the other is new."""
    before = parse_graph(TEXT)
    after = Graph("other")
    width = TensorType(torch.float32, (symbol("b"), 8))
    after.append(Op("x", "input", type=width))
    after.append(Op("tail", "aten.tanh", (Ref("x"),), type=width))
    after.outputs = Ref("tail")
    statuses = [change.status for change in difference(before, after, b=1).changes]
    assert statuses.count("removed") == 4
    assert statuses.count("added") == 1


def test_totals_are_those_of_the_graphs():
    before, after = graphs(("{in=8, out=6}", "{in=8, out=6, bias=false}"), ("@a.bias ", ""))
    found = difference(before, after, b=2)
    assert found.cost_before.parameters - found.cost_after.parameters == 6
    assert found.peak_before == found.peak_after == 2 * 4 * (8 + 6 + 6)


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["h.0.up"], "h.0.up"),
        (["h.0.up", "h.1.up", "h.2.up"], "h.{0..2}.up"),
        (["h.0.up", "h.1.up_1"], "h.{0..1}.up"),
        (["h.0.q", "h.0.k", "h.1.q", "h.1.k"], "h.{0..1}.{q,k}"),
        (["h.0.up", "tail"], "h.0.up, .."),
        (["relu", "relu_1"], "relu, .."),
    ],
)
def test_joint_names(names, want):
    assert joint_name(names) == want


def test_nothing_is_edited():
    before, after = graphs(("relu(%a)", "silu(%a)"))
    texts = copy.copy((str(before), str(after)))
    difference(before, after, b=1).rows()
    assert (str(before), str(after)) == texts
