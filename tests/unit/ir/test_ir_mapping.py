"""Loading a bundle maps its weights: little memory, private pages, safe under a new file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compressc.errors import CompresscError
from compressc.ir import (
    Graph,
    Op,
    Ref,
    Tensor,
    TensorType,
    graph_hash,
    load_bundle,
    save_bundle,
    symbol,
)

SIZE = 128 << 20  # bytes of weights

#: Prints the growth of the resident set: after loading, then at most while weights are touched.
PROGRAM = """
import gc, json, sys
from pathlib import Path
import torch
from compressc.ir import check_finite, graph_hash, load_bundle, lower, verify

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

torch.set_num_threads(1)
small, large = map(Path, sys.argv[1:])
def touch(graph):
    verify(graph)
    check_finite(graph)
    graph_hash(graph)
    with torch.no_grad():
        lower(graph)(torch.ones(1, 1024))

touch(load_bundle(small))  # what is loaded and compiled once
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
graph = load_bundle(large)
loaded = resident("VmHWM") - before
touch(graph)
print(json.dumps([loaded, resident("VmHWM") - before]))
"""


def _wide(megabytes: int) -> Graph:
    graph, last = Graph("wide"), "x"
    type_ = TensorType(torch.float32, (symbol("b"), 1024))
    graph.append(Op("x", "input", type=type_))
    for i in range(megabytes // 4):
        layer = torch.nn.Linear(1024, 1024, bias=False).eval()
        graph.append(Op(f"fc{i}", "linear", (Ref(last),), layer=layer, type=type_))
        last = f"fc{i}"
    graph.outputs = Ref(last)
    return graph


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_of_loading(tmp_path: Path) -> None:
    save_bundle(_wide(4), tmp_path / "small")
    save_bundle(_wide(SIZE >> 20), tmp_path / "large")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded, touched = json.loads(done.stdout)
    assert loaded < 0.1 * SIZE
    assert 0.9 * SIZE < touched < 1.1 * SIZE


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@torch.no_grad()
def test_a_write_stays_in_this_process(digits: Graph, tmp_path: Path) -> None:
    save_bundle(digits, tmp_path)
    before = _digest(tmp_path / "weights.safetensors")
    graph = load_bundle(tmp_path)
    for tensor in graph.tensors().values():
        tensor.zero_()
    assert _digest(tmp_path / "weights.safetensors") == before
    assert graph_hash(load_bundle(tmp_path)) == graph_hash(digits)


@torch.no_grad()
def test_saving_over_the_bundle_that_is_mapped(digits: Graph, tmp_path: Path) -> None:
    """The old weights stay readable, the new ones are what the folder has."""
    save_bundle(digits, tmp_path)
    first = load_bundle(tmp_path)
    changed = load_bundle(tmp_path)
    changed["head"].layer.weight.mul_(2)
    save_bundle(changed, tmp_path)
    assert graph_hash(first) == graph_hash(digits)
    assert graph_hash(load_bundle(tmp_path)) == graph_hash(changed)
    save_bundle(first, tmp_path)
    assert graph_hash(load_bundle(tmp_path)) == graph_hash(digits)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["graph.txt", "weights.safetensors"]


def test_deleting_the_bundle_that_is_mapped(digits: Graph, tmp_path: Path) -> None:
    save_bundle(digits, tmp_path / "bundle")
    graph = load_bundle(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "bundle")
    assert graph_hash(graph) == graph_hash(digits)


def test_a_failing_save_leaves_the_old_bundle(
    digits: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_bundle(digits, tmp_path)
    changed = digits.copy()
    changed.name = "changed"

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("compressc.ir.weights_file.write_aligned", fail)
    with pytest.raises(OSError, match="disk full"):
        save_bundle(changed, tmp_path)
    assert graph_hash(load_bundle(tmp_path)) == graph_hash(digits)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["graph.txt", "weights.safetensors"]


def test_a_dtype_that_files_do_not_have_is_told(digits: Graph, tmp_path: Path) -> None:
    value = torch.ones(2, dtype=torch.complex128)
    digits.append(Op("c", "constant", layer=Tensor(value), type=TensorType(value.dtype, (2,))))
    digits.outputs = (digits.outputs, Ref("c"))
    with pytest.raises(CompresscError, match="complex128"):
        save_bundle(digits, tmp_path)
    assert not list(tmp_path.iterdir())
