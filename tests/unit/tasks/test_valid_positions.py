"""Which positions of a batch are no padding, by the inputs."""

import torch

from compressc.ir import parse_graph
from compressc.tasks import settle

TEXT = """
graph g(%input_ids: i64[b,s], %{mask}: i64[b,s]) {{
  %table = embedding(%input_ids) {{rows=9, width=4}} @table.weight : f32[b,s,4]   # from table
  %row = aten.unsqueeze.default(%{mask}, 2) : i64[b,s,1]   # from row
  %out = aten.mul.Tensor(%table, %row) : f32[b,s,4]   # from out
  return %out
}}
"""
INPUTS = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[1, 1, 0], [1, 0, 0]])


def settled(mask):
    return settle(parse_graph(TEXT.format(mask=mask), {"table.weight": torch.ones(9, 4)}))


def test_the_attention_mask_says_it():
    assert settled("attention_mask").valid(INPUTS).tolist() == [
        [True, True, False],
        [True] + [False] * 2,
    ]


def test_without_one_nothing_does():
    assert settled("kinds").valid(INPUTS) is None
