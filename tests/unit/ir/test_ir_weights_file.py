from __future__ import annotations

import errno
import os
import tempfile

import pytest
import torch

from compressc.ir import graph_hash
from compressc.ir.running import run_graph
from compressc.ir.weights_file import set_aside
from tests.unit.ir.mapped_memory import in_a_file


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_weights_lie_in_a_file_without_a_name_and_are_the_same(temporary, graph):
    before, names = graph_hash(graph), list(graph.tensors())
    assert not any(in_a_file(t) for t in graph.tensors().values())
    assert set_aside(graph)
    in_file = {name for name, tensor in graph.tensors().items() if in_a_file(tensor)}
    assert in_file >= {n for n, t in graph.tensors().items() if t.nbytes and t.nbytes % 64 == 0}
    assert not list(temporary.iterdir())
    assert graph_hash(graph) == before
    assert list(graph.tensors()) == names  # what was tied still is
    assert not any(in_a_file(t) for t in graph.copy().tensors().values())


def test_it_runs(temporary, digits):
    x = torch.randn(3, 1, 8, 8)
    (want,) = run_graph(digits, (x,))
    set_aside(digits)
    assert torch.equal(run_graph(digits, (x,))[0], want)


def test_writing_to_what_was_set_aside_changes_no_copy(temporary, digits):
    set_aside(digits)
    before, copy = graph_hash(digits), digits.copy()
    with torch.no_grad():
        for tensor in digits.tensors().values():
            tensor.zero_()
    assert graph_hash(digits) != before
    assert graph_hash(copy) == before


def test_without_room_on_disk_the_weights_stay(temporary, digits, monkeypatch):
    before = graph_hash(digits)

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("compressc.ir.weights_file.write_aligned", full)
    assert not set_aside(digits)
    assert graph_hash(digits) == before
    assert not list(temporary.iterdir())
