"""Calibration: streamed, the same for any size of a batch, and refused where it says nothing."""

from __future__ import annotations

import pytest
import torch
from compressc_quant import Quant
from compressc_quant.calibrating import (
    LOT,
    MOST,
    Calibration,
    Ranges,
    calibration,
    observe_ranges,
    read_by_quantizers,
    set_ranges,
    spread_order,
)
from compressc_quant.carry import carry_over
from compressc_quant.observing import Settings, observe
from compressc_quant.tracing import trace
from quant_nets import random_data
from torch import nn

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import graph_hash, lower
from compressc.ir.quantized import QUANTIZE
from compressc.pipeline import Context


@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_are_nncfs_where_its_batches_are_lots(teacher, digits, symmetric):
    batches = [tuple(x[i : i + LOT] for x in digits.calibration.inputs) for i in (0, 32, 64)]
    traced = trace(teacher, batches[0])
    settings = Settings(symmetric=symmetric, transformer=False, smooth=False)
    theirs = teacher.copy()
    carry_over(theirs, traced, observe(traced.module, batches, settings))
    ours = teacher.copy()
    carry_over(ours, traced, observe(traced.module, batches[:1], settings))
    set_ranges(ours, observe_ranges(teacher, read_by_quantizers(ours, teacher), batches))
    quantizers = [op.name for op in theirs if op.kind == QUANTIZE]
    assert len(quantizers) > 4
    for name in quantizers:
        assert ours[name].args[1] == pytest.approx(theirs[name].args[1], rel=1e-5)
        assert ours[name].args[2:] == theirs[name].args[2:]


@pytest.mark.parametrize("batch", [16, 64, 128])
def test_the_size_of_a_batch_changes_nothing(quantized, run, teacher, batch):
    graph, _ = run(teacher, batch=batch, bias_correction=False)
    like, _ = run(teacher, bias_correction=False)
    pairs = [(graph[op.name], op) for op in like if op.kind == QUANTIZE]
    assert pairs
    for ours, theirs in pairs:
        assert ours.args[1] == pytest.approx(theirs.args[1], rel=1e-4)
        assert ours.args[2] == theirs.args[2]


def test_extremes_are_those_of_each_sample(teacher, digits):
    x = digits.calibration.inputs[0][:48]
    found = observe_ranges(teacher, ["x", "relu", "flatten"], [(x[:20],), (x[20:],)])
    assert found.extremes.shape == (48, 3, 2)
    with torch.no_grad():
        _, (relu, flat) = lower(teacher, also=["relu", "flatten"])(x)
    for place, value in enumerate((x, relu, flat)):
        rows = value.flatten(1)
        want = torch.stack([rows.amin(1), rows.amax(1)], 1)
        assert torch.allclose(found.extremes[:, place], want, atol=1e-5)
    lots = [x[:32]]  # what is left over is no lot
    assert found.of("x").low == pytest.approx(sum(float(lot.min()) for lot in lots), abs=1e-6)


def test_halves_that_differ_are_told():
    extremes = torch.zeros(128, 2, 2)
    extremes[..., 1] = 1.0
    extremes[32:64, 1, 1] = extremes[96:, 1, 1] = 3.0  # every other lot
    spreads = Ranges(["even", "odd"], extremes).spreads()
    assert spreads.tolist() == [0.0, 1.0]  # 1 and 3, in widths of 2
    assert len(Ranges(["one"], torch.zeros(1, 1, 2)).spreads()) == 0


def test_the_report_says_how_far_halves_differ(run, teacher):
    _, context = run(teacher, samples=128)
    record = context.records["calibration"]
    assert record["samples"] == 128
    assert 0 < record["spread"] < 0.2
    (text,) = [text for _, text in context.notes if text.startswith("ranges of")]
    assert "on 128 samples: two halves of them differ by" in text


def test_a_spread_subset_until_ranges_settle(teacher):
    """Two kinds of samples, one behind the other, of 4,096 in all."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(4096, 1, 8, 8, generator=draw)
    x[2048:] *= 5
    batches = calibration(Split((x,)), "auto", 32)
    assert len(batches.positions) == MOST
    found = observe_ranges(teacher, ["x"], batches)
    assert 128 <= found.samples < MOST  # settled
    assert found.of("x").high == pytest.approx(5.0, abs=0.05)
    first = calibration(Split((x,)), 256, 32)
    assert first.positions.tolist() == list(range(256))
    assert observe_ranges(teacher, ["x"], first).of("x").high < 1.01


@pytest.mark.parametrize("total", [1, 7, 1000])
def test_a_spread_order_is_one(total):
    order = spread_order(total)
    assert sorted(order.tolist()) == list(range(total))
    if total == 1000:
        for count in (10, 100):
            gaps = order[:count].sort().values.diff()
            assert gaps.max() < 3 * total / count


def test_one_batch_is_in_memory_at_a_time(teacher, run):
    class Counted(Split):
        largest = 0

        def select(self, positions, view=None):
            Counted.largest = max(Counted.largest, len(positions))
            return super().select(positions, view)

    part = Counted((torch.rand(512, 1, 8, 8),))
    batches = calibration(part, "auto", 16)
    assert isinstance(batches, Calibration)
    observe_ranges(teacher, ["x", "relu"], batches)
    assert Counted.largest == 16


@pytest.mark.parametrize(
    "change", [lambda x: x * 0, lambda x: x[:1].expand_as(x).clone()], ids=["zeros", "constant"]
)
def test_samples_that_say_nothing_are_refused(teacher, change):
    x = change(torch.rand(96, 1, 8, 8))
    with pytest.raises(CompresscError, match="96 samples that are all the same") as caught:
        Quant().run(teacher.copy(), Context(teacher=teacher, data=random_data(x)))
    assert caught.value.code == "CC301"


def test_it_is_the_same_each_time(run, teacher, quantized):
    assert graph_hash(run(teacher)[0]) == graph_hash(quantized)


@pytest.mark.parametrize("smooth", [False, True])
def test_samples_of_several_lengths(smooth):
    class Ragged(Split):
        """Batches are as long as the longest sample in them."""

        def select(self, positions, view=None):
            longest = int(4 + (positions % 5).max())
            (x,) = super().select(positions, view).inputs
            return Split((x[:, :longest],))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x):
            return self.b(self.a(x).relu().mean(1))

    x = torch.randn(70, 8, 8, generator=torch.Generator().manual_seed(0))
    teacher = load_model(Net().eval(), example=(x[:4],), input_spec=["x: f32[b,s,8]"]).graph
    part = Ragged((x,))
    data = Dataset("ragged", part, part, part)
    lengths = {len(batch[0][0]) for batch in calibration(part, "auto", 2)}
    assert len(lengths) > 1
    graph = teacher.copy()
    Quant(batch=2, smooth=smooth).run(graph, Context(teacher=teacher, data=data))
    assert graph["a"].kind == graph["b"].kind == "quantized_linear"
