from __future__ import annotations

import re

import pytest
import torch

from compressc.analysis import symbolize_widths
from compressc.ir import lower, verify
from tests.passes.prune.prune_nets import inputs_of
from tests.unit.analysis.analysis_nets import NETS, baked, symbolized


def lines(name: str, kind: str) -> list[str]:
    found = [line.split("#")[0].strip() for line in str(symbolized(name)).splitlines()]
    return [line for line in found if f"= aten.{kind}" in line]


@pytest.mark.parametrize("name", sorted(NETS))
@torch.no_grad()
def test_the_graph_computes_the_same_bit_for_bit(name):
    before, after = baked(name), symbolized(name)
    verify(after, like=before)
    inputs = inputs_of(name, 4)
    want, got = (torch.utils._pytree.tree_leaves(lower(g)(*inputs)) for g in (before, after))
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_fused_qkv():
    """The sizes of attention are heads times head width, those of the input stay numbers."""
    assert symbolized("vit").widths == {"w0": 4, "w1": 8, "w2": 4, "w3": 8}
    written = [re.search(r"\[b.*?\]", line).group() for line in lines("vit", "reshape")]
    assert written[:2] == ["[b, 17, 3, w0, w1]", "[b, 17, w0*w1]"]
    assert "width w0 = 4, w1 = 8, w2 = 4, w3 = 8" in str(symbolized("vit"))


def test_minus_one_is_written_out():
    """Hugging Face writes -1 for the heads: after a cut of the head width it would mean others."""
    assert any("-1" in str(op.args) for op in baked("gqa_flag") if op.kind == "aten.reshape")
    for op in symbolized("gqa_flag"):
        if op.kind == "aten.reshape":
            assert -1 not in op.args[1]


def test_repeated_key_heads():
    (expand, _) = lines("gqa_repeat", "expand")
    assert re.search(r"\[b, w\d, w\d, 5, w\d\]", expand)
    widths = symbolized("gqa_repeat").widths
    assert sorted(widths.values()) == [2, 4, 6, 6]


def test_batch_times_heads():
    """torch's own attention folds the heads into the batch: 4*b is b*w0."""
    written = lines("transformer_encoder", "reshape")
    assert any("[6, b*w0, w1]" in line for line in written)
    assert not any("4*b" in line.split(":")[0] for line in written)


def test_equal_pieces_become_listed_pieces():
    class Chunks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fused, self.out = torch.nn.Linear(6, 16), torch.nn.Linear(8, 3)

        def forward(self, x):
            gate, up = self.fused(x).chunk(2, -1)
            return self.out(torch.sigmoid(gate) * up)

    from compressc.testing import export_graph

    module = Chunks().eval()
    graph = export_graph(module, torch.randn(4, 6))
    (split,) = [op for op in graph if "split" in op.kind or "chunk" in op.kind]
    assert split.kind == "aten.split_with_sizes"
    assert [str(size) for size in split.args[1]] == ["w0", "w0"]
    x = torch.randn(5, 6)
    assert torch.equal(lower(graph)(x), module(x))


def test_doing_it_twice_changes_nothing():
    for name in ("vit", "gqa_repeat", "transformer_encoder"):
        graph = symbolized(name)
        before = str(graph)
        symbolize_widths(graph)
        assert str(graph) == before


def test_a_network_without_written_sizes_has_no_widths():
    assert symbolized("digits_cnn").widths == {}


class Flattened(torch.nn.Module):
    """Channels and positions in one dimension, written as numbers; groups of equal width."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a = torch.nn.Conv2d(3, 16, 3, padding=1, groups=1)
        self.b = torch.nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.f, self.o = torch.nn.Linear(16 * 24, 8), torch.nn.Linear(8, 3)
        self.two = torch.nn.Linear(32 * 24, 8)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        if self.how == "sum":
            wide = torch.cat((self.a(x[:, :3]), x), 1)
            return self.o(self.two(wide.view(x.shape[0], -1)))
        sizes = {"-1": (x.shape[0], -1), "number": (-1, 16 * 4 * 6)}
        return self.o(self.f(x.view(*sizes[self.how])))


@pytest.mark.parametrize(
    ("how", "text"), [("-1", "[b, 24*w0*w1]"), ("number", "[b, 24*w0*w1]"), ("sum", "*w0")]
)
@torch.no_grad()
def test_products_and_sums_of_widths_are_read_back(how, text):
    """No symbol stands alone anywhere, and w0 and w1 are both 4: every leaf has its own."""
    from compressc.analysis import couple
    from compressc.testing import export_graph

    graph = export_graph(Flattened(how).eval(), torch.randn(5, 3, 4, 6))
    assert text in str(graph).replace("s77", "b")
    found = couple(graph)
    assert found.stale == {}
    assert sorted(found.symbols.values()) == sorted(graph.widths)
    assert all(leaf.size == graph.widths[name] for leaf, name in found.symbols.items())


def test_a_size_that_would_not_follow_is_known():
    from compressc.analysis import couple
    from compressc.testing import export_graph

    graph = export_graph(Flattened("number").eval(), torch.randn(5, 3, 4, 6))
    (op,) = [op for op in graph if op.kind == "aten.reshape"]
    op.args = (op.args[0], (op.args[1][0], 384))
    found = couple(graph)
    assert set(found.stale.values()) == {op.name}
    assert {leaf.size for leaf in found.stale} == {4}
