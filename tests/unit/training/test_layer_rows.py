"""Rows of a layer's input times its weight are the rows of its output, in one order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.ir import Op
from compressc.training.layer_rows import input_pieces, input_rows, output_rows

LAYERS = {
    "plain": nn.Conv2d(3, 4, 3),
    "padded": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "same": nn.Conv2d(3, 4, (4, 3), padding="same"),
    "valid": nn.Conv2d(3, 4, 2, padding="valid"),
    "circular": nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
}


def op(kind: str, layer: nn.Module) -> Op:
    return Op("made", kind, (), layer=layer)


@pytest.mark.parametrize("most", [10**6, 17])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_convolution(name, most):
    layer, x = LAYERS[name].double(), torch.randn(2, 3, 7, 6, dtype=torch.float64)
    rows = input_rows(op("conv2d", layer), x, None, most)
    wanted = output_rows(op("conv2d", layer), layer(x), None, most)
    assert len(rows) == min(most, layer(x)[:, 0].numel())
    assert torch.allclose(rows @ layer.weight.flatten(1).T + layer.bias, wanted)


@pytest.mark.parametrize("most", [10**6, 17])
@torch.no_grad()
def test_pieces_are_the_rows(most):
    layer, x = LAYERS["padded"], torch.randn(2, 3, 7, 6)
    pieces = list(input_pieces(op("conv2d", layer), x, None, most, 5 * 18 * 4 + 1))
    assert {len(piece) for piece in pieces[:-1]} == {5}
    assert torch.equal(torch.cat(pieces), input_rows(op("conv2d", layer), x, None, most))
    assert len(next(input_pieces(op("conv2d", layer), x, None, most, 1))) == 1
    text, linear = torch.randn(2, 5, 4), op("linear", nn.Linear(4, 3))
    pieces = list(input_pieces(linear, text, None, most, 3 * 4 * 4))
    assert {len(piece) for piece in pieces[:-1]} == {3}
    assert torch.equal(torch.cat(pieces), input_rows(linear, text, None, most))


@torch.no_grad()
def test_one_dimension_and_groups():
    layer, x = nn.Conv1d(4, 6, 3, groups=2).double(), torch.randn(2, 4, 9, dtype=torch.float64)
    rows = input_rows(op("conv1d", layer), x, None, 99).chunk(2, 1)
    made = [r @ w.flatten(1).T for r, w in zip(rows, layer.weight.chunk(2), strict=True)]
    wanted = output_rows(op("conv1d", layer), layer(x), None, 99)
    assert torch.allclose(torch.cat(made, 1) + layer.bias, wanted)


@torch.no_grad()
def test_linear_without_padding_of_a_text():
    layer, x = nn.Linear(4, 3).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    valid = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()
    rows = input_rows(op("linear", layer), x, valid, 99)
    assert torch.equal(rows, torch.cat([x[0, :3], x[1, :4]]))
    assert torch.allclose(layer(rows), output_rows(op("linear", layer), layer(x), valid, 99))
    assert len(input_rows(op("linear", layer), x, valid, 4)) == 4
