"""What goes with one channel, where it can be told by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.analysis import cut_together
from compressc.errors import CompresscError
from compressc.testing import export_graph
from tests.unit.analysis.analysis_nets import symbolized


def places(reading, tensors: bool = True) -> dict[tuple[str, str, int], tuple[int, ...]]:
    return {(p.op, p.tensor, p.dim): p.indices for p in reading.places if bool(p.tensor) == tensors}


def test_a_hidden_unit_goes_with_its_row_and_its_columns():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    (reading,) = cut_together(export_graph(net, torch.ones(5, 2)), "0", 2)
    assert reading.what == "channel 2 of 4"
    assert (reading.reason, reading.normalized) == ("", "")
    assert places(reading) == {
        ("0", "weight", 0): (2,),
        ("0", "bias", 0): (2,),
        ("2", "weight", 1): (2,),
    }
    assert places(reading, tensors=False) == {("0", "", 1): (2,), ("1", "", 1): (2,)}


def test_concatenated_channels_are_counted_from_where_they_stand():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.read = nn.Linear(2, 4), nn.Linear(2, 5), nn.Linear(9, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.read(torch.cat([self.a(x), self.b(x)], 1))

    (reading,) = cut_together(export_graph(Joined().eval(), torch.ones(6, 2)), "b", 1)
    assert places(reading)["read", "weight", 1] == (5,)


def test_a_row_of_a_fused_projection_is_of_a_head_and_of_a_head_width():
    """qkv rows are (3, 4 heads, 8): row 32 + 8 + 3 is the key of head 1, index 3."""
    graph = symbolized("vit")
    by_what = {r.what: r for r in cut_together(graph, "blocks.0.attn.qkv", 43)}
    head, width = by_what["head 1 of 4"], by_what["index 3 of head width 8"]
    rows = {r for start in (0, 32, 64) for r in range(start + 8, start + 16)}
    assert set(places(head)["blocks.0.attn.qkv", "weight", 0]) == rows
    assert places(head)["blocks.0.attn.proj", "weight", 1] == tuple(range(8, 16))
    assert places(width)["blocks.0.attn.proj", "weight", 1] == (3, 11, 19, 27)
    assert [r.reason for r in (head, width)] == ["", ""]


def test_what_cannot_go_has_a_reason():
    graph = symbolized("vit")
    (head,) = cut_together(graph, "head", 0)
    assert head.reason.startswith("width of the model's output")
    (stream,) = cut_together(graph, "patch", 5)
    assert (stream.reason, stream.normalized) == ("", "blocks.0.norm1")


@pytest.mark.parametrize(
    ("name", "index", "says"),
    [
        ("poinwise", 0, "did you mean 'pointwise'"),
        ("bn1", 0, "it makes no width"),
        ("pointwise", 32, r"0 to 31 \(got 32\)"),
        ("pointwise", -1, "0 to 31"),
    ],
)
def test_a_wrong_channel_is_an_error(name, index, says):
    with pytest.raises(CompresscError, match=rf"CC100.*{says}"):
        cut_together(symbolized("digits_cnn"), name, index)
