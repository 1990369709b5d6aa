from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from compressc.ir import graph_hash
from compressc.pipeline import PassCache, Pipeline, cache, default_cache_folder
from tests.unit.pipeline.pipeline_passes import Noise, Scale, data, small_graph

pytestmark = pytest.mark.usefixtures("passes")


def run(folder: Path, *passes, graph=None, **options):
    return Pipeline(passes or (Scale(),), cache=PassCache(folder), **options).run(
        graph or small_graph()
    )


def test_the_same_run_again_does_no_work(tmp_path):
    first = run(tmp_path, Scale(), Noise(), data=data())
    second = run(tmp_path, Scale(), Noise(), data=data())
    assert len(Scale.runs) == 1
    assert [r.cached for r in second] == [True, True]
    for a, b in zip(first, second, strict=True):
        assert graph_hash(a.graph) == graph_hash(b.graph)
        assert (a.notes, a.edits, a.seconds) == (b.notes, b.edits, b.seconds)


def test_an_unchanged_beginning_is_reused(tmp_path):
    run(tmp_path, Scale(), Noise())
    results = run(tmp_path, Scale(), Scale(by=3))
    assert [r.cached for r in results] == [True, False]


@pytest.mark.parametrize(
    ("passes", "options"),
    [
        ((Scale(by=3.0),), {}),
        ((Scale(seed=8),), {}),
        ((Scale(),), {"seed": 1}),
        ((Scale(),), {"data": data(1)}),
        ((Scale(),), {"data": data(0)}),
        ((Scale(),), {"graph": small_graph(1)}),
    ],
)
def test_whatever_a_result_depends_on_makes_another_key(tmp_path, passes, options):
    run(tmp_path)
    assert not run(tmp_path, *passes, **options)[0].cached
    assert run(tmp_path)[0].cached
    assert run(tmp_path, *passes, **options)[0].cached


def test_another_version_of_a_pass_is_another_pass(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(Scale, "version", 2)
    assert not run(tmp_path)[0].cached


def test_another_class_of_the_same_name_is_another_pass(tmp_path):
    run(tmp_path)
    assert not run(tmp_path, type("Scale", (Scale,), {"__module__": "elsewhere"})())[0].cached


def truncate(entry: Path) -> None:
    weights = entry / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])


def flip_a_bit(entry: Path) -> None:
    weights = entry / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))


def lose_facts(entry: Path) -> None:
    (entry / "facts.json").unlink()


def empty_facts(entry: Path) -> None:
    (entry / "facts.json").write_text("{}")


def scalar_facts(entry: Path) -> None:
    (entry / "facts.json").write_text("3")


def bad_text(entry: Path) -> None:
    (entry / "graph.txt").write_text("graph small(")


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, lose_facts, empty_facts, scalar_facts, bad_text]
)
def test_a_damaged_entry_is_ignored_and_replaced(tmp_path, damage):
    want = graph_hash(run(tmp_path)[0].graph)
    (entry,) = tmp_path.iterdir()
    damage(entry)
    (result,) = run(tmp_path)
    assert not result.cached
    assert graph_hash(result.graph) == want
    assert run(tmp_path)[0].cached


def test_a_folder_that_cannot_be_made_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("")
    assert not run(tmp_path / "file" / "cache")[0].cached


@pytest.mark.parametrize("error", [OSError("full"), SafetensorError("I/O error: full")])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, error):
    def fail(graph, folder):
        (folder / "half").write_text("x")
        raise error

    monkeypatch.setattr(cache, "save_bundle", fail)
    assert not run(tmp_path)[0].cached
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(graph, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "save_bundle", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_entries_hold_no_pickle(tmp_path):
    run(tmp_path)
    (entry,) = tmp_path.iterdir()
    assert {p.name for p in entry.iterdir()} == {"facts.json", "graph.txt", "weights.safetensors"}
    json.loads((entry / "facts.json").read_text())


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSC_CACHE", str(tmp_path))
    assert default_cache_folder() == tmp_path
    monkeypatch.delenv("COMPRESSC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "compressc"


def test_a_cached_graph_trains(tmp_path):
    run(tmp_path)
    graph = run(tmp_path)[0].graph
    assert all(isinstance(t, torch.nn.Parameter) for t in graph.tensors().values())
