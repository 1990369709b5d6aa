"""Weights beside an ONNX message: the files are those that onnx itself would write."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from compressc.backend.exporting import export_graph as program_of
from compressc.backend.onnx import export_onnx
from compressc.backend.onnx_weights import Beside
from compressc.ir import Graph
from compressc.testing import export_graph

WIDTH = 300  # its varint has two bytes, that of a weight's size three


class Net(nn.Module):
    """Weights of all sorts: large, small, of a convolution, tied, transposed in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.wide, self.again = nn.Linear(16, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out, self.tied = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, WIDTH)
        self.tied.weight = self.again.weight
        self.register_buffer("turned", torch.randn(8, WIDTH).T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.wide(self.conv(x).relu().mean((2, 3)))
        x = self.tied(self.again(x))
        return self.out(x).sum(1, keepdim=True) + x @ self.turned


def example() -> tuple[torch.Tensor, ...]:
    return (torch.randn(4, 3, 8, 8),)


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return export_graph(Net().eval(), *example())


def whole(graph: Graph) -> onnx.ModelProto:
    """The message with every byte in it, as the exporter makes it."""
    program = torch.onnx.export(
        program_of(graph, example()), dynamo=True, external_data=False, verbose=False
    )
    return program.model_proto


def test_the_file_is_that_of_onnx_save_to_the_byte(graph, tmp_path):
    wanted = whole(graph)
    program = torch.onnx.export(
        program_of(graph, example()), dynamo=True, external_data=False, verbose=False
    )
    beside = Beside.of(program)
    assert len(beside.weights) >= 4
    assert beside.model.ByteSize() < 0.1 * wanted.ByteSize()
    for message in (wanted, beside.model):  # they say where the trace was made, by line
        for node in message.graph.node:
            del node.metadata_props[:]
    onnx.save(wanted, tmp_path / "wanted.onnx")
    beside.save(tmp_path / "got.onnx")
    assert (tmp_path / "got.onnx").read_bytes() == (tmp_path / "wanted.onnx").read_bytes()


def test_what_is_written_apart_reads_as_the_same_model(graph, tmp_path):
    beside = export_onnx(graph, example())
    size = beside.bytes
    beside.save(tmp_path / "one.onnx")
    assert 0.99 * size < (tmp_path / "one.onnx").stat().st_size <= size
    beside.save_apart(tmp_path / "two.onnx")
    assert (tmp_path / "two.onnx").stat().st_size < 0.1 * size
    one, two = (onnx.load(tmp_path / name) for name in ("one.onnx", "two.onnx"))
    assert [t.name for t in one.graph.initializer] == [t.name for t in two.graph.initializer]
    for left, right in zip(one.graph.initializer, two.graph.initializer, strict=True):
        same = onnx.numpy_helper.to_array(left) == onnx.numpy_helper.to_array(right)
        assert same.all(), left.name
    assert one.graph.node == two.graph.node


def test_a_weight_that_nothing_reads_is_not_written(graph, tmp_path):
    beside = export_onnx(graph, example())
    (gone,) = [t for t in beside.model.graph.initializer if list(t.dims) == [WIDTH, 16]]
    before, size = beside.bytes, 4 * WIDTH * 16
    beside.model.graph.initializer.remove(gone)
    assert size < before - beside.bytes < size + 200
    beside.save(tmp_path / "m.onnx")
    stored = onnx.load(tmp_path / "m.onnx").graph.initializer
    assert [WIDTH, 16] not in [list(t.dims) for t in stored]
