"""A region stays in integers where its runtime is measurably faster by it, and nowhere else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from backend_graphs import quantized_graph, samples

from compressc.analysis.integers import integer_layers
from compressc.backend import Backend, Runner, gaining, load_backend
from compressc.backend.gaining import Gaining, Part, in_floats, parts_of
from compressc.errors import CompresscError
from compressc.ir import Graph, lower, parse_graph, verify
from compressc.measure import fidelity, measure_latency
from compressc.target import Target

QUANTIZE = "quantized_decomposed.quantize_per_tensor"
FORM = "0.05, 128, 0, 255, dtype.u8"
DEPTH = 4


class Clock:
    """Moves only when a file runs."""

    now = 0

    def __call__(self) -> tuple[int, int]:
        return self.now, self.now


class Table(Backend):
    """A file takes the time that a table gives its layers, in integers or in floats."""

    name: ClassVar[str] = "table"
    runtime: ClassVar[str] = "a fake"
    suffix: ClassVar[str] = "model.fake"
    clock: ClassVar[Clock] = Clock()
    graphs: ClassVar[list[Graph]] = []
    #: Layer -> milliseconds in integers, in floats.
    times: ClassVar[dict[str, tuple[float, float]]] = {}
    #: The same at batch sizes where it is another.
    at: ClassVar[dict[int, dict[str, tuple[float, float]]]] = {}
    #: Milliseconds of a file that has both.
    both: ClassVar[float] = 0.0

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        self.graphs.append(graph)
        return folder / str(len(self.graphs) - 1)

    def load(self, path: Path, threads: int = 1) -> Runner:
        graph = self.graphs[int(path.name)]
        able = {op.name for op in integer_layers(graph)}

        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            times = self.times | self.at.get(len(inputs[0]), {})
            took = sum(pair[name not in able] for name, pair in times.items())
            took += self.both if 0 < len(able) < len(times) else 0
            self.clock.now += round(took * 1e6)
            return inputs

        return run


def chain() -> Graph:
    """Four linear layers of one size, each behind a pair of its own."""
    lines, last, tensors = [], "x", {}
    for name in "abcd":
        lines += [
            f"%{name}.q = {QUANTIZE}(%{last}, {FORM}) : u8[b,8]",
            f"%{name}.dq = {QUANTIZE.replace('.q', '.deq')}(%{name}.q, {FORM}) : f32[b,8]",
            f"%{name} = quantized_linear(%{name}.dq) {{in=8, out=8}} "
            f"@{name}.bias @{name}.weight @{name}.scale : f32[b,8]",
        ]
        draw = torch.Generator().manual_seed(ord(name))
        tensors[f"{name}.weight"] = torch.randint(-64, 65, (8, 8), generator=draw).to(torch.int8)
        tensors[f"{name}.scale"] = torch.full((8,), 0.01)
        tensors[f"{name}.bias"] = torch.randn(8, generator=draw)
        last = name
    body = "\n".join(lines)
    return parse_graph(f"graph net(%x: f32[b,8]) {{\n{body}\nreturn %d\n}}", tensors)


@pytest.fixture
def timed(monkeypatch):
    """The measured choice, by a table of times."""

    def run(both: float = 0.0, at=None, batches=(1,), **times: tuple[float, float]):
        monkeypatch.setattr(Table, "times", times)
        monkeypatch.setattr(Table, "at", at or {})
        monkeypatch.setattr(Table, "both", both)
        measured = partial(measure_latency, clock=Table.clock)
        monkeypatch.setattr(gaining, "measure_latency", measured)
        x = torch.randn(2, 8)
        inputs = tuple((x[:1].expand(size, -1),) for size in batches)
        return Gaining(Table(), (x,), inputs, 1).of(chain())

    return run


def computed(graph):
    return [op.name for op in integer_layers(graph)]


def test_regions_are_neighbours_of_equal_work():
    x = torch.randn(2, 8)
    assert [part.layers for part in parts_of(chain(), (x,))] == [(n,) for n in "abcd"]
    assert [part.layers for part in parts_of(chain(), (x,), 2)] == [("a", "b"), ("c", "d")]
    wide = quantized_graph()  # 5,184 multiplications beside 18,432
    assert [p.layers for p in parts_of(wide, (samples(2),), 4)] == [("conv",), ("fc",)]
    assert [p.layers for p in parts_of(wide, (samples(2),), 1)] == [("conv", "fc")]


def test_only_what_gains_is_in_integers(timed):
    graph, found = timed(a=(1, 2), b=(2, 1), c=(1, 2), d=(1, 1))
    assert computed(graph) == ["a", "c"]
    assert [r.floats for r in found.regions] == [False, True, False, True]
    assert [r.verdict for r in found.regions] == ["faster", "slower", "faster", "same"]
    assert found.regions[0].speedup == pytest.approx(6 / 5, rel=1e-3)
    assert found.regions[1].speedup == pytest.approx(4 / 5, rel=1e-3)
    assert found.outcome.startswith("a fake is faster with integers in 2 of 4 regions")
    assert "a fake is no faster with it in integers: 1.00x" in found.regions[3].reason


def test_what_gains_throughout_is_left_as_it_was(timed):
    graph, found = timed(a=(1, 2), b=(1, 2), c=(1, 2), d=(1, 2))
    assert str(graph) == str(chain())
    assert not any(region.floats for region in found.regions)


def test_what_gains_nowhere_is_all_in_floats(timed):
    graph, found = timed(a=(2, 1), b=(1, 1), c=(1, 1), d=(1, 1))
    assert computed(graph) == []
    assert QUANTIZE not in str(graph)
    assert graph["a"].int8  # stored as it was
    assert "0 of 4" in found.outcome


def test_what_each_gains_too_little_by_is_gained_together(timed):
    graph, found = timed(a=(1, 1.15), b=(1, 1.15), c=(1, 1.15), d=(1, 1.15))
    assert {region.verdict for region in found.regions} == {"same"}
    assert computed(graph) == ["a", "b", "c", "d"]
    assert "together they gain 1.15x" in found.outcome


def test_a_mixture_that_is_slower_than_floats_is_none(timed):
    graph, found = timed(both=2.0, a=(1, 2), b=(9, 1), c=(9, 1), d=(9, 1))
    assert computed(graph) == []
    assert "slower as a whole" in found.outcome


def test_every_batch_size_counts_alike(timed):
    """b gains at 1 and loses at 4, c gains less and loses more, d gains at 4 alone."""
    at_four = {"a": (1, 1), "b": (2, 1), "c": (2.2, 1), "d": (1, 2)}
    one = {"a": (1, 1), "b": (1, 2), "c": (1, 1.1), "d": (1, 1)}
    graph, found = timed(batches=(1, 4), at={4: at_four}, **one)
    b, c, d = found.regions[1:]
    assert b.speedups == pytest.approx([5 / 4, 5.2 / 6.2], rel=1e-3)
    assert b.speedup == pytest.approx((5 / 4 * 5.2 / 6.2) ** 0.5, rel=1e-3)
    assert c.speedups == pytest.approx([4.1 / 4, 5 / 6.2], rel=1e-3)
    assert d.speedup == pytest.approx((1 * 7.2 / 6.2) ** 0.5, rel=1e-3)
    assert [r.verdict for r in found.regions] == ["same", "same", "slower", "faster"]
    assert computed(graph) == ["d"]
    assert found.batches == [1, 4]
    assert "(batch 1, 4)" in found.outcome
    assert "; at batch 1: 1.25x, 4: 0.84x" in b.reason


def test_the_first_batch_size_alone_decided_otherwise(timed):
    graph, _ = timed(a=(1, 1), b=(1, 2), c=(1, 1.1), d=(1, 1))
    assert computed(graph) == ["b"]


def test_what_cannot_run_in_floats_stays(timed, monkeypatch):
    load = Table.load

    def refuse(self, path, threads=1):
        if "b" not in {op.name for op in integer_layers(self.graphs[int(path.name)])}:
            raise CompresscError("CC504", "a fake must accept the file")
        return load(self, path, threads)

    monkeypatch.setattr(Table, "load", refuse)
    graph, found = timed(a=(1, 2), b=(9, 1), c=(1, 2), d=(1, 2))
    assert computed(graph) == ["a", "b", "c", "d"]
    assert found.regions[1].speedup is None
    assert "runs no file with it in floats" in found.regions[1].reason
    assert "in 3 of 4 regions of the layers; 1 could not be measured" in found.outcome


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("left", ["conv", "fc"])
def test_a_file_of_both_computes_its_graph(name, left, tmp_path):
    plain, x = quantized_graph(), samples(4)
    names = {"conv": "conv", "fc": "fc"}
    graph = in_floats(plain, [Part((left,), (names[left],))])
    verify(graph, like=plain)
    backend = load_backend(name)
    path = backend.emit(graph, tmp_path, (x,))
    with torch.no_grad():
        want = lower(graph)(x)
        weights = graph[left].layer.float_weight()
    assert fidelity(backend.load(path)(x)[0], want).relative_rms_error < 0.01
    assert torch.equal(weights, plain[left].layer.float_weight())
    found = backend.int8_layers(path, graph)
    reasons = {layer.op: layer.reason for layer in found.left}
    assert reasons[left] == "its input is float"


def test_a_layer_in_floats_computes_with_its_stored_weight():
    plain, x = quantized_graph(), samples(4)
    parts = parts_of(plain, (x,), 4)
    graph = in_floats(plain, parts)
    conv, fc = (plain[name].layer for name in ("conv", "fc"))
    weight = conv.weight.double() * conv.scale.double()[:, None, None, None]
    hidden = torch.nn.functional.conv2d(x.double(), weight, conv.bias.double(), padding=1).relu()
    want = hidden.flatten(1) @ (fc.weight.double() * fc.scale.double()[:, None]).T + fc.bias
    with torch.no_grad():
        assert torch.allclose(lower(graph)(x).double(), want, atol=1e-4)
    assert computed(plain) == ["conv", "fc"]  # a copy was made


def test_gains_need_a_batch_size():
    with pytest.raises(CompresscError, match="--int8 gains needs a batch size"):
        Target(batches=(), int8="gains")
