"""Graphs share weights until one of them is written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressc.ir import Graph, graph_hash, load_bundle, lower, save_bundle
from compressc.ir.sharing import address, bytes_of, shared
from compressc.testing import export_graph

WIDTH = 64


def one_layer(width: int = WIDTH) -> Graph:
    return export_graph(nn.Linear(width, width), torch.zeros(3, width))


def weight_of(graph: Graph) -> torch.Tensor:
    return next(iter(graph.tensors().values())).detach()


def test_copies_have_bytes_of_their_own_only_when_they_are_written():
    graph = one_layer()
    copies = [graph.copy() for _ in range(6)]
    inputs = torch.ones(2, WIDTH)
    for copy in copies:  # running, hashing and comparing are reading
        lower(copy)(inputs).sum().backward()
        assert graph_hash(copy) == graph_hash(graph)
        assert torch.equal(weight_of(copy), weight_of(graph))
    assert {address(weight_of(copy)) for copy in copies} == {address(weight_of(graph))}
    for copy in copies:
        weight_of(copy).mul_(2)
    assert len({address(weight_of(one)) for one in (graph, *copies)}) == 7


@pytest.mark.parametrize("written", ["copy", "original"])
def test_whoever_writes_writes_its_own(written):
    graph = one_layer(8)
    before = weight_of(graph).clone()
    copy = graph.copy()
    writer, other = (copy, graph) if written == "copy" else (graph, copy)
    module = lower(writer)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(weight_of(other), before)
    assert (weight_of(writer) - before).abs().min() > 0.05


def test_numpy_and_statistics_of_a_batch_norm_write_their_own():
    graph = export_graph(nn.BatchNorm1d(4), torch.zeros(3, 4))
    copy = graph.copy()
    (op,) = (op for op in copy if op.layer is not None)
    assert op.layer is not None
    op.layer.train()(torch.arange(12.0).reshape(3, 4))
    op.layer.weight.detach().numpy()[:] = 7.0
    (old,) = (op.layer for op in graph if op.layer is not None)
    assert old.running_mean.tolist() == [0.0] * 4
    assert old.weight.tolist() == [1.0] * 4
    assert op.layer.running_mean.tolist() == pytest.approx([0.4, 0.5, 0.6, 0.7])


def test_tied_weights_stay_tied():
    layer = nn.Linear(4, 4)
    graph = export_graph(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(3, 4)).copy()
    assert len(graph.tensors()) == 2
    assert len(graph.holders(next(iter(graph.tensors().values())))) == 2


def test_writing_a_bundle_does_not_unshare(tmp_path):
    graph = one_layer()
    copy = graph.copy()
    save_bundle(copy, tmp_path)
    assert address(weight_of(copy)) == address(weight_of(graph))
    assert torch.equal(weight_of(load_bundle(tmp_path)), weight_of(graph))


def test_what_cannot_be_counted_is_copied(tmp_path: Path):
    save_bundle(one_layer(8), tmp_path)
    array = np.ones(100, np.float32)
    base = torch.ones(1000)
    mapped = weight_of(load_bundle(tmp_path))
    for tensor in (torch.from_numpy(array), base[10:20], mapped):
        twin = shared(tensor)
        before = tensor.clone()
        twin.zero_()
        assert torch.equal(tensor, before)
        assert twin.untyped_storage().nbytes() == twin.nbytes  # a part does not keep the whole


def test_bytes_are_those_of_the_tensor():
    tensor = torch.arange(3_000_000, dtype=torch.int32)  # more than one piece
    want = hashlib.sha256(tensor.numpy().tobytes()).digest()
    for case in (tensor, shared(tensor), shared(shared(tensor))):
        digest = hashlib.sha256()
        for piece in bytes_of(case):
            digest.update(piece)
        assert digest.digest() == want
    assert [bytes(p) for p in bytes_of(torch.tensor(1, dtype=torch.int16))] == [b"\x01\x00"]
    assert b"".join(bytes_of(torch.zeros(0))) == b""


def test_what_torch_has_read_from_a_file_can_be_written(tmp_path):
    weight = torch.randn(4, 4)
    torch.save(weight, tmp_path / "w.pt")
    read = torch.load(tmp_path / "w.pt")
    twin = shared(
        read
    )  # its memory has no allocator: shared, a write would be a segmentation fault
    assert not torch._C._is_cow_tensor(twin)
    assert np.array_equal(twin.add_(1).numpy(), weight.numpy() + 1)
    assert torch.equal(read, weight)
