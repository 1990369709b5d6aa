"""Trainable twins compute what stored integers do, and have gradients."""

from __future__ import annotations

import pytest
import torch
from compressc_quant.rounding import to_nearest
from torch import nn

from compressc.ir import Op
from compressc.ir.number_forms import INT8_PER_CHANNEL, UINT4, NumberForm
from compressc.ir.trainable import TWIN, TrainableValue, TrainableWeight

FOUR = NumberForm(UINT4, axis=0, group=16, zero_point=True)
LAYERS = {
    "linear": nn.Linear(48, 6),
    "conv2d": nn.Conv2d(16, 6, 3),
    "embedding": nn.Embedding(9, 32),
}
GIVEN = {
    "linear": torch.randn(3, 48),
    "conv2d": torch.randn(2, 16, 5, 5),
    "embedding": torch.tensor([[0, 3], [8, 8]]),
}


def stored(kind, form):
    layer = LAYERS[kind]
    return to_nearest(layer.weight.detach().flatten(1), form).layer(Op("x", kind, layer=layer))


@pytest.mark.parametrize("form", [INT8_PER_CHANNEL, FOUR], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_twin_begins_where_the_integers_are_and_stores_them_again(kind, form):
    layer, weight = stored(kind, form), LAYERS[kind].weight
    want, result = layer.float_weight(), layer(GIVEN[kind])
    before = {name: tensor.clone() for name, tensor in layer._buffers.items()}
    twin = TrainableWeight(layer, weight)
    assert torch.equal(twin.weight, weight)  # rounded to nearest: it starts at the floats
    assert torch.allclose(twin(), want, atol=1e-7)
    layer.add_module(TWIN, twin)
    assert torch.allclose(layer(GIVEN[kind]), result, atol=1e-5)
    layer(GIVEN[kind]).sum().backward()
    assert twin.weight.grad.abs().sum() > 0
    twin.store(layer)
    assert layer._buffers.keys() == before.keys()
    assert all(torch.equal(layer._buffers[name], before[name]) for name in before)


def test_integers_that_are_not_the_nearest_are_kept():
    layer = stored("linear", INT8_PER_CHANNEL)
    moved = layer.weight.clone()
    moved[0, 0] = moved[0, 0] + (1 if moved[0, 0] < 100 else -1)
    layer._buffers["weight"] = moved
    twin = TrainableWeight(layer, LAYERS["linear"].weight)
    twin.store(layer)
    assert torch.equal(layer.weight, moved)


def test_gradients_are_those_of_the_papers():
    """Straight through within the range, none outside; of the scale as LSQ, equation 3."""
    value = TrainableValue(0.5, 2, 0, 7)  # -1 to 2.5
    x = torch.tensor([0.6, -3.0, 9.0], requires_grad=True)
    value(x).sum().backward()
    assert value(x).tolist() == pytest.approx([0.5, -1.0, 2.5])
    assert x.grad.tolist() == [1.0, 0.0, 0.0]
    by_scale = (round(0.6 / 0.5) - 0.6 / 0.5) + (0 - 2) + (7 - 2)
    assert float(value.log_factor.grad) == pytest.approx(by_scale * 0.5, rel=1e-5)


def test_a_smaller_range_is_kept():
    layer = stored("linear", INT8_PER_CHANNEL)
    twin = TrainableWeight(layer, LAYERS["linear"].weight, most=64)
    with torch.no_grad():
        twin.weight.mul_(100)
    twin.store(layer)
    assert layer.weight.abs().max() == 64
