"""Layers whose sizes lie in groups are predicted, slices too; one that is refused stops none."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressc.analysis import couple, sizes_of
from compressc.editing import cut_widths
from compressc.ir import Graph
from compressc.measure import layer_times
from compressc.measure.table import LatencyTable, read_table
from compressc.probe import Times, drawing, emit_part, here, plan_of, read_by, write_probe
from compressc.probe.layers import Layer, layers_of
from compressc.testing import export_graph


class Grouped(nn.Module):
    """A convolution of four groups, and a norm of two, behind widths that may be cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.grouped = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 32, 3, groups=4, padding=1)
        self.norm, self.head = nn.GroupNorm(2, 32), nn.Conv2d(32, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.grouped(torch.relu(self.stem(x))))))


class Sliced(nn.Module):
    """Positions are left out, all channels are there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x))[:, 1:9:2])


class Queries(nn.Module):
    """Three queries of a head ask one key."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = nn.Linear(10, 48), nn.Linear(10, 16), nn.Linear(10, 16)
        self.out = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def heads(value: torch.Tensor, count: int) -> torch.Tensor:
            return value.unflatten(-1, (count, 8)).transpose(1, 2)

        q, k, v = heads(self.q(x), 6), heads(self.k(x), 2), heads(self.v(x), 2)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


NETS = {
    "grouped": (Grouped, (4, 3, 6, 6)),
    "sliced": (Sliced, (4, 12, 6)),
    "queries": (Queries, (4, 5, 10)),
}


def net(name: str) -> Graph:
    make, shape = NETS[name]
    return export_graph(make().eval(), torch.randn(shape))


def drawn(graph: Graph, found=None) -> tuple[dict[str, Layer], tuple[str, ...]]:
    layers = layers_of(graph, found or couple(graph), {**sizes_of(graph, None), "b": 2})
    return {layer.op: layer for layer in layers.timed}, layers.fixed


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("grouped", {"stem", "grouped", "norm", "head"}),
        ("sliced", {"up", "slice", "down"}),
        ("queries", {"q", "k", "v", "scaled_dot_product_attention", "out"}),
    ],
)
def test_sizes_are_those_of_the_graph_when_it_is_cut(name, ops):
    """Whichever width is cut: as the layers of a graph that really is."""
    graph = net(name)
    found = couple(graph)
    layers, fixed = drawn(graph, found)
    assert not fixed
    assert {one for one in ops if any(one in op for op in layers)} == ops
    cuttable = [w.axis for w in found.widths() if w.producers and not w.axis.frozen]
    assert cuttable
    for axis in cuttable:
        left = {axis: axis.size // 2}
        copy = graph.copy()
        cut_widths(copy, found, {axis: torch.arange(axis.size // 2)})
        really, _ = drawn(copy)
        for op, layer in layers.items():
            source, inputs = layer.model(layer.at(left))
            if op in really:  # one that is left with a single index has no width any more
                assert (source, inputs) == really[op].model(really[op].full), op
            layer_times._Model(source, inputs, 1, False, layer_times.system_clock)()


def test_a_grouped_convolution_is_one_of_so_many_groups():
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 32, 3, groups=4, padding=1), nn.Conv2d(32, 5, 1)
    layers, _ = drawn(export_graph(nn.Sequential(*convs).eval(), torch.randn(4, 3, 6, 6)))
    layer = layers["1"]
    assert layer.full == (4, 6, 8)  # groups, channels that one reads, and makes
    assert layer.signature.endswith("2xABx6x6 -> 2xACx6x6 in A groups")
    (node,) = [
        node
        for node in onnx.load_from_string(layer.model((3, 6, 4))[0]).graph.node
        if node.op_type == "Conv"
    ]
    assert {a.name: a.i for a in node.attribute}["group"] == 3


def test_norms_of_groups_and_repeated_keys_run_as_the_exporter_has_them(tmp_path):
    """Nodes of the drawings are among those of the whole file."""
    for name, op, wanted in (
        ("grouped", "norm", "InstanceNormalization"),
        ("queries", "scaled_dot_product_attention", "Expand"),
        ("sliced", "slice", "Slice"),
    ):
        graph = net(name)
        whole = emit_part(graph, couple(graph), {}, tmp_path / name, (torch.randn(NETS[name][1]),))
        layer = next(one for key, one in drawn(graph)[0].items() if op in key)
        ours = {
            node.op_type for node in onnx.load_from_string(layer.model(layer.full)[0]).graph.node
        }
        theirs = {node.op_type for node in onnx.load(whole).graph.node}
        assert wanted in ours
        assert wanted in theirs


@pytest.fixture
def refusing(monkeypatch):
    """A drawing that the runtime does not take."""

    def draw(s, op, xs, shapes, out):
        return s.node("NoSuchNode", xs[0])

    monkeypatch.setitem(drawing.DRAWN, "group_norm", draw)


def test_a_layer_that_is_refused_stops_no_other(refusing, tmp_path):
    graph = net("grouped")
    found = couple(graph)
    movable = {w.axis for w in found.widths() if w.producers and not w.axis.frozen}
    plan = plan_of(graph, found, {}, 2, movable)
    example = (torch.randn(NETS["grouped"][1]),)

    def whole(part):
        path = emit_part(graph, found, plan.parts[part], tmp_path / str(part), example)
        return str(path), read_by(graph, {}, 2)

    kept = partial(lambda folder, key: folder, tmp_path / "kept")
    table, count = here(plan, whole, 1, kept)
    assert count == len(plan.rows)
    ((layer, reason),) = table.refused.items()
    assert layer.startswith("group_norm")
    assert "NoSuchNode" in reason
    times = Times(plan, movable, table)
    assert set(times.refused) == {"norm"}
    assert times.at({}) == pytest.approx(times.whole)
    axis = next(w.axis for w in found.widths() if w.axis in movable and w.size == 24 // 4)
    assert times.at({axis: 3}) <= times.whole
    again, count = here(plan, whole, 1, kept)  # what was refused is not asked again
    assert count == 0
    assert again.refused == table.refused


def test_the_script_goes_on_too_and_says_so(refusing, tmp_path):
    graph = net("grouped")
    folder = tmp_path / "probe"
    folder.mkdir()
    example = (torch.randn(NETS["grouped"][1]),)
    write_probe(graph, folder, batches=(1,), threads=1, sizes={}, example=example)
    plan = json.loads((folder / "plan.json").read_text())
    first = [row for row in plan["rows"] if "group_norm" in row["layer"]][:1]
    few = [*first, *[row for row in plan["rows"] if "conv2d" in row["layer"]][:2]]
    (folder / "plan.json").write_text(json.dumps({**plan, "rows": few}))
    done = subprocess.run(
        [sys.executable, folder / "measure.py"], capture_output=True, text=True, check=True
    )
    assert "not timed, group_norm" in done.stderr
    table = read_table(folder / "table.json")
    assert isinstance(table, LatencyTable)
    assert len(table.rows) == 2
    assert list(table.refused) == [first[0]["layer"]]
