"""Bundles: round trip with ties and memory layout, damage, hashes."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash, load_bundle, lower, save_bundle, verify
from compressc.ir.aligned import is_aligned, write_aligned
from compressc.testing import export_graph
from tests.models import ZOO


def test_the_zoo_loads_again_bit_equal(graph: Graph, tmp_path: Path) -> None:
    save_bundle(graph, tmp_path)
    again = load_bundle(tmp_path)
    assert str(again) == str(graph)
    assert list(again.tensors()) == list(graph.tensors())
    assert graph_hash(again) == graph_hash(graph)
    _, example = ZOO[graph.name]()
    with torch.no_grad():
        for a, b in zip(
            tree_leaves(lower(graph)(*example)), tree_leaves(lower(again)(*example)), strict=True
        ):
            assert torch.equal(a, b)


def test_a_bundle_needs_none_of_the_users_code(digits: Graph, tmp_path: Path) -> None:
    save_bundle(digits, tmp_path)
    x = torch.randn(3, 1, 8, 8)
    code = (
        "import sys, torch; from pathlib import Path; from compressc.ir import load_bundle, lower\n"
        "assert not any('tests' in name for name in sys.modules)\n"
        f"torch.set_num_threads(1); x = torch.tensor({x.tolist()})\n"
        "print(lower(load_bundle(Path(sys.argv[1])))(x).detach().double().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    with torch.no_grad():
        assert json.loads(done.stdout) == lower(digits)(x).double().tolist()


def test_memory_layout_is_kept(digits: Graph, tmp_path: Path) -> None:
    layer = digits["conv1"].layer
    assert layer is not None
    layer.to(memory_format=torch.channels_last)
    head = digits["head"].layer
    head.weight = torch.nn.Parameter(head.weight.detach().t().contiguous().t())
    save_bundle(digits, tmp_path)
    again = load_bundle(tmp_path)
    for name, tensor in digits.tensors().items():
        assert again.tensors()[name].stride() == tensor.stride(), name
        assert torch.equal(again.tensors()[name], tensor)


def test_no_pickle_is_written(digits: Graph, tmp_path: Path) -> None:
    save_bundle(digits, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["graph.txt", "weights.safetensors"]


# ---- hashes -------------------------------------------------------------------------------


def test_the_hash_sees_one_weight_bit(digits: Graph) -> None:
    before = graph_hash(digits)
    assert graph_hash(digits.copy()) == before
    with torch.no_grad():
        bits = digits["head"].layer.bias.view(torch.int32)
        bits[3] ^= 1
    assert graph_hash(digits) != before
    with torch.no_grad():
        bits[3] ^= 1
    assert graph_hash(digits) == before


def test_the_hash_sees_one_attribute(digits: Graph) -> None:
    before = graph_hash(digits)
    digits["bn1"].layer.eps = 1e-4
    assert graph_hash(digits) != before


def test_the_hash_sees_lineage_and_outputs(digits: Graph) -> None:
    hashes = {graph_hash(digits)}
    digits["head"].lineage = ("other",)
    hashes.add(graph_hash(digits))
    digits.outputs = (digits.outputs,)
    hashes.add(graph_hash(digits))
    assert len(hashes) == 3


# ---- damage -------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    """The code a damaged bundle is refused with."""
    with pytest.raises(CompresscError) as caught:
        verify(load_bundle(folder))
    return caught.value.code


@pytest.fixture
def bundle(digits: Graph, tmp_path: Path) -> Path:
    """A sound bundle on disk."""
    save_bundle(digits, tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["graph.txt", "weights.safetensors"])
def test_a_missing_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert refused(bundle) == "CC403"


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_truncated_weights_are_refused(bundle: Path, share: float) -> None:
    data = (bundle / "weights.safetensors").read_bytes()
    (bundle / "weights.safetensors").write_bytes(data[: int(share * len(data))])
    assert refused(bundle) == "CC403"


@pytest.mark.parametrize("share", [0, 0.3, 0.7])
def test_truncated_text_is_refused(bundle: Path, share: float) -> None:
    text = (bundle / "graph.txt").read_text()
    (bundle / "graph.txt").write_text(text[: int(share * len(text))])
    assert refused(bundle) == "CC402"


def test_text_that_is_not_utf8_is_refused(bundle: Path) -> None:
    (bundle / "graph.txt").write_bytes(b"graph \xff\xfe")
    assert refused(bundle) == "CC403"


def test_weights_of_another_shape_are_refused(bundle: Path) -> None:
    text = (bundle / "graph.txt").read_text()
    (bundle / "graph.txt").write_text(text.replace("out=10", "out=11"))
    assert refused(bundle) == "CC402"


def test_a_missing_weight_is_refused(bundle: Path) -> None:
    text = (bundle / "graph.txt").read_text()
    (bundle / "graph.txt").write_text(text.replace("@head.bias", "@nowhere.bias"))
    assert refused(bundle) == "CC402"


def _write_safetensors(path: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _entry(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": _entry([2], 0, 8), "b": _entry([2], 4, 12)},
        {"a": _entry([1 << 40], 0, 1 << 42)},
        {"a": _entry([2], 8, 0)},
        {"a": _entry([2], 0, 8) | {"dtype": "PICKLE"}},
        {"__metadata__": {"memory_order": "{\"nowhere\": [1, 0]}"}},
        {"__metadata__": {"memory_order": "not json"}},
        {"__metadata__": {"memory_order": "[1]"}, "a": _entry([2], 0, 8)},
        b"not json",
    ],
)  # fmt: skip
def test_forged_weight_tables_are_refused(bundle: Path, header: object) -> None:
    _write_safetensors(bundle / "weights.safetensors", header, b"\0" * 12)
    assert refused(bundle) in ("CC403", "CC402")


def test_a_huge_header_is_refused_without_reading_it(bundle: Path) -> None:
    (bundle / "weights.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    assert refused(bundle) == "CC403"


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_is_refused_with_a_code(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    save_bundle(_tied_copy(), folder)
    file = folder / data.draw(st.sampled_from(["graph.txt", "weights.safetensors"]))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 1200)))] = data.draw(
            st.integers(0, 255)
        )
    file.write_bytes(content)
    with suppress(CompresscError):  # any other exception fails the test
        verify(load_bundle(folder))


def _tied_copy() -> Graph:
    from compressc.ir import Op, Ref, TensorType, symbol

    torch.manual_seed(0)
    graph = Graph("tied")
    graph.append(Op("x", "input", type=TensorType(torch.float32, (symbol("b"), 4))))
    first, second = torch.nn.Linear(4, 4).eval(), torch.nn.Linear(4, 4).eval()
    second.weight = first.weight
    type_ = TensorType(torch.float32, (symbol("b"), 4))
    graph.append(Op("a", "linear", (Ref("x"),), layer=first, type=type_, lineage=("a",)))
    graph.append(Op("c", "linear", (Ref("a"),), layer=second, type=type_, kept={1: (0, 1, 2, 3)}))
    graph.outputs = Ref("c")
    return graph


def test_mapped_weights_begin_where_allocated_ones_would(tmp_path):
    """Else kernels take another path, and small layers round differently than before."""
    torch.manual_seed(0)
    tensors = {f"t{i}": torch.randn(n) for i, n in enumerate([3, 16, 5, 1024, 0, 7])}
    tensors["half"] = torch.randn(5, 3).to(torch.bfloat16)
    write_aligned(tensors, tmp_path / "w.safetensors", {"a": "b"})
    with safetensors.safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.metadata() == {"a": "b"}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert is_aligned(found["t3"])
    assert is_aligned(found["t1"])


@torch.no_grad()
def test_a_loaded_bundle_computes_the_same_bits(tmp_path):
    """With widths that leave most tensors unaligned in any order."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(13, 27), torch.nn.ReLU(), torch.nn.Linear(27, 131), torch.nn.Linear(131, 3)
    )
    graph = export_graph(module.eval(), torch.randn(4, 13))
    save_bundle(graph, tmp_path)
    loaded = load_bundle(tmp_path)
    assert all(map(is_aligned, loaded.tensors().values()))
    for batch in (1, 2, 5):
        x = torch.randn(batch, 13)
        assert torch.equal(lower(loaded)(x), module(x))


def test_both_files_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch) -> None:
    """A power cut may undo what was not synced: bytes first, then names, then their folder."""
    events: list[tuple[str, str]] = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        events.append(("name", Path(target).name))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    module = torch.nn.Linear(4, 3)
    (tmp_path / "bundle").mkdir()
    save_bundle(export_graph(module, torch.randn(3, 4)), tmp_path / "bundle")
    kinds = [kind for kind, _ in events]
    assert kinds == ["sync", "sync", "name", "name", "sync"]
    assert {name for _, name in events[2:4]} == {"graph.txt", "weights.safetensors"}
    assert all(name.endswith(".partial") for _, name in events[:2])
    assert events[-1] == ("sync", "bundle")
