"""`quant(method=gptq)` in static mode: weights rounded so that what layers put out is kept."""

from __future__ import annotations

import torch
from compressc_quant import Quant, quant
from quant_nets import imported, random_data
from torch import nn

from compressc.ir import run_graph, verify
from compressc.pipeline import Context
from compressc.target import Target

WIDTH = 24


def mobile(outlier: float) -> nn.Module:
    """Convolutions as mobile networks have them; each row has a weight that stretches its range."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, WIDTH, 3, 2, 1), nn.ReLU6()]
    for _ in range(3):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH), nn.ReLU6()]
        layers += [nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU6()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data *= 3
            layer.weight.data[:, 0, 0, 0] *= outlier
    return net.eval()


def photos(count: int) -> torch.Tensor:
    """Smooth pictures: neighbours are alike, so that what a layer is given is correlated."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(count))
    return nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear") * 2


def quantized(outlier, **options):
    """The float graph, the quantized one, how far its outputs are off, and the notes."""
    data = random_data(photos(96))
    graph = imported(mobile(outlier), (photos(96)[:4],))
    context = Context(teacher=graph, data=data, target=Target(instruction_set="avx2"))
    found = graph.copy()
    Quant(**options).run(found, context)
    verify(found, like=graph)
    x = (photos(64),)
    want, got = run_graph(graph, x)[0], run_graph(found, x)[0]
    return graph, found, float((got - want).norm() / want.norm()), context.notes


def told(notes):
    return [text for _, text in notes if "rounded by what they are given" in text]


def test_less_is_lost_and_weights_keep_to_their_range():
    _, nearest, lost, notes = quantized(60.0, method="rtn")
    assert not told(notes)
    graph, found, kept, notes = quantized(
        60.0, method="auto"
    )  # nearest is off by more than 5 %: it is looked at
    assert kept < 0.8 * lost
    assert told(notes)[0].startswith("weights of 8 layers")
    assert [op.kind for op in found] == [op.kind for op in nearest]
    moved = 0
    for op in found:
        if op.weight_form is None:
            continue
        limit = 127 if getattr(op.layer, "groups", 1) > 1 else 64
        assert int(op.layer.weight.int().abs().max()) == limit
        off = (op.layer.float_weight() - graph[op.name].layer.weight).flatten(1).abs()
        moved += int((off > 0.51 * op.layer.scale[:, None]).sum())  # not to the nearest integer
    assert moved


def test_where_nearest_is_near_data_are_looked_at_if_that_loses_too_much_or_if_told():
    assert not told(quantized(1.0, method="auto")[3])
    assert told(quantized(1.0, method="auto", max_drop=0.0, train=False)[3])
    assert told(quantized(1.0, method="gptq")[3])


def test_what_is_further_off_by_data_stays_rounded_to_nearest(monkeypatch):
    def integers(graph):
        return torch.cat([op.layer.weight.flatten() for op in graph if op.int8])

    _, nearest, lost, _ = quantized(60.0, method="rtn")
    distances = iter([0.2, 0.3, 0.2])  # nearest; by data, nearest
    monkeypatch.setattr(quant, "distance", lambda got, want: next(distances))
    _, found, kept, notes = quantized(60.0)
    assert torch.equal(integers(found), integers(nearest))
    assert abs(kept - lost) < 1e-3
    (text,) = told(notes)
    assert text.endswith("which is further off: they stay rounded to nearest")
    monkeypatch.setattr(quant, "distance", lambda got, want: 0.2)
    assert not torch.equal(integers(quantized(60.0, method="gptq")[1]), integers(nearest))
