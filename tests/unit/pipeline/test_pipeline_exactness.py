"""What an exact pass may change: a ten-thousandth of an output's root mean square, no more."""

from __future__ import annotations

import math

import pytest
import torch
from pipeline_passes import Scale

from compressc.errors import CompresscError
from compressc.ir import Graph, parse_graph
from compressc.pipeline import check_exact

TEXT = """
graph g(%x: f32[b,4]) {
  %fc = linear(%x) {in=4, out=8} @fc.weight @fc.bias : f32[b,8]
  return %fc
}"""


def constant(first: float) -> Graph:
    """A graph that puts out 2 everywhere, but `first` in the first place."""
    bias = torch.full((8,), 2.0)
    bias[0] = first
    return parse_graph(TEXT, {"fc.weight": torch.zeros(8, 4), "fc.bias": bias})


@pytest.mark.parametrize("moved", [1.5e-4, -1.5e-4])  # 0.75e-4 of the root mean square, 2
def test_rounding_is_exact(moved: float) -> None:
    check_exact(Scale(), constant(2.0), constant(2.0 + moved), (torch.zeros(3, 4),))


@pytest.mark.parametrize("moved", [2.5e-4, -2.5e-4, float("nan")])
def test_more_than_rounding_is_not(moved: float) -> None:
    with pytest.raises(CompresscError, match=r"CC501.*within 0\.0001") as caught:
        check_exact(Scale(), constant(2.0), constant(2.0 + moved), (torch.zeros(3, 4),))
    assert caught.value.got.startswith("nan" if math.isnan(moved) else "0.000125")
