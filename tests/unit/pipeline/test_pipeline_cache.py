from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors import SafetensorError

from compressc import spec
from compressc.fingerprint import fingerprint
from compressc.ir import graph_hash
from compressc.kernels.dispatch import using
from compressc.pipeline import Pass, PassCache, Pipeline, conditions, default_cache_folder, stored
from compressc.target import Target
from compressc.tasks import Response, SettledTask
from compressc.tasks.known import of_kind
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
        assert a.records == b.records
    assert first[0].records == {"factor": 2.0}


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


def pipe(entry: Path) -> None:
    (entry / "weights.safetensors").unlink()
    os.mkfifo(entry / "weights.safetensors")


def pipe_for_facts(entry: Path) -> None:
    (entry / "facts.json").unlink()
    os.mkfifo(entry / "facts.json")


def link(entry: Path) -> None:
    elsewhere = entry.parent.parent / "elsewhere"
    (entry / "weights.safetensors").rename(elsewhere)
    (entry / "weights.safetensors").symlink_to(elsewhere)


def link_to_all_of_it(entry: Path) -> None:
    elsewhere = entry.parent.parent / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)


def a_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("")


def huge_weights(entry: Path) -> None:
    os.truncate(entry / "weights.safetensors", 1 << 40)  # holes: no bytes on the disk


def huge_facts(entry: Path) -> None:
    os.truncate(entry / "facts.json", 1 << 40)


def brackets(entry: Path) -> None:
    (entry / "facts.json").write_text("[" * 200_000)


def change(**facts: object):
    def damage(entry: Path) -> None:
        stored = json.loads((entry / "facts.json").read_text())
        stored["facts"].update(facts)
        (entry / "facts.json").write_text(json.dumps(stored))

    return damage


def another_text(entry: Path) -> None:
    """Well formed, of the same length, and not what was stored."""
    text = (entry / "graph.txt").read_text()
    (entry / "graph.txt").write_text(text.replace("graph small(", "graph shall("))


DAMAGES = [
    *(truncate, flip_a_bit, lose_facts, empty_facts, scalar_facts, bad_text, another_text),
    *(pipe, pipe_for_facts, link, link_to_all_of_it, a_file, huge_weights, huge_facts, brackets),
    *(change(notes=None), change(seconds="x"), change(seconds=-1.0), change(seconds=86400.0)),
    *(change(edits=[1]), change(made={}), change(more=1), change(notes=[["a", "another"]])),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_that_is_not_what_was_stored_is_told_and_made_again(tmp_path, damage):
    folder = tmp_path / "cache"
    want = run(folder)[0]
    (entry,) = folder.iterdir()
    damage(entry)
    (result,) = run(folder)
    assert not result.cached
    assert graph_hash(result.graph) == graph_hash(want.graph)
    assert result.notes[:-1] == want.notes
    assert result.notes[-1][1].startswith("an entry of the cache was not what was stored")
    again = run(folder)[0]
    assert again.cached
    assert again.notes == want.notes


def test_entries_that_changed_places_are_not_served_as_each_other(tmp_path):
    wanted = [graph_hash(run(tmp_path, Scale(by=by))[0].graph) for by in (2.0, 3.0)]
    one, two = tmp_path.iterdir()
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    results = [run(tmp_path, Scale(by=by))[0] for by in (2.0, 3.0)]
    assert [graph_hash(r.graph) for r in results] == wanted
    assert [r.cached for r in results] == [False, False]


class Forget(Pass):
    """Teachers of one form cannot be told apart any more."""

    name: ClassVar[str] = "forget"

    def run(self, graph, ctx):
        with torch.no_grad():
            for weight in graph.tensors().values():
                weight.fill_(0.5)
        graph.set_layer("a", graph["a"].layer)


class Recall(Pass):
    """Copy the first layer of the teacher."""

    name: ClassVar[str] = "recall"

    def run(self, graph, ctx):
        graph.set_layer("a", copy.deepcopy(ctx.teacher["a"].layer))


def test_a_pass_that_reads_the_teacher_is_not_served_what_another_taught(tmp_path):
    forgotten = set()
    for seed in (0, 1):
        teacher = small_graph(seed)
        forgot, recalled = run(tmp_path, Forget(), Recall(), graph=teacher)
        forgotten.add(graph_hash(forgot.graph))
        assert not recalled.cached
        assert torch.equal(recalled.graph["a"].layer.weight, teacher["a"].layer.weight)
    assert len(forgotten) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"judged": Response(1, "b", "values", 1, "", "values", 1)},
        {"labels": True},
        {"per_position": True},
    ],
)
def test_what_was_learned_for_another_task_is_not_served(tmp_path, other):
    judged = Response(0, "b", "class_scores", 1, "", "class_scores", 1)
    task = SettledTask(of_kind(judged.kind), judged, (judged,))
    run(tmp_path, task=task)
    assert not run(tmp_path, task=replace(task, **other))[0].cached
    assert not run(tmp_path)[0].cached
    assert run(tmp_path, task=replace(task, reason="said otherwise"))[0].cached


def two_threads(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)


def another_torch(monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.99.0")


def another_processor(monkeypatch) -> None:
    monkeypatch.setattr(conditions, "processor", lambda: "Another 9000")


def another_instruction_set(monkeypatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")


def another_kernel(monkeypatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")


def less_precise(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")


def other_code(monkeypatch) -> None:
    code = replace(fingerprint(Scale), sha256="0" * 64)
    monkeypatch.setattr(spec, "fingerprint", lambda *plugins, libraries: code)


def another_library(monkeypatch) -> None:
    code = replace(fingerprint(Scale), libraries={"nncf": "9.0"})
    monkeypatch.setattr(spec, "fingerprint", lambda *plugins, libraries: code)


@pytest.mark.parametrize(
    "otherwise",
    [
        *(two_threads, another_torch, another_processor, another_instruction_set, another_kernel),
        *(less_precise, other_code, another_library),
    ],
)
def test_what_was_made_otherwise_is_not_served(tmp_path, monkeypatch, otherwise):
    run(tmp_path)
    with monkeypatch.context() as patch:
        otherwise(patch)
        assert not run(tmp_path)[0].cached
        assert run(tmp_path)[0].cached
    assert run(tmp_path)[0].cached


def test_forced_kernels_make_another_key(tmp_path):
    run(tmp_path)
    with using("reference"):
        assert not run(tmp_path)[0].cached


def test_a_result_says_what_it_was_made_with_wherever_it_comes_from(tmp_path, monkeypatch):
    first = run(tmp_path)[0]
    assert first.made["threads"] == str(torch.get_num_threads())
    assert first.made["torch"] == torch.__version__
    assert first.made["networkx"]  # by which the graph is kept
    assert run(tmp_path)[0].made == first.made


def test_code_that_cannot_be_told_is_neither_kept_nor_served(tmp_path):
    prompt = type("Scale", (Scale,), {"__module__": "typed_at_a_prompt"})
    for _ in range(2):
        (result,) = run(tmp_path, prompt())
        assert not result.cached
        assert "not kept in the cache: module typed_at_a_prompt has no file" in result.notes[-1][1]
    assert not list(tmp_path.iterdir())
    assert run(None, prompt())[0].notes == [("a", "scaled by 2.0")]  # nobody asked


def test_nor_is_what_a_task_taught_whose_code_cannot_be_told(tmp_path):
    judged = Response(0, "b", "class_scores", 1, "", "class_scores", 1)
    known = of_kind(judged.kind)
    prompt = type("Classification", (type(known),), {"__module__": "typed_at_a_prompt"})
    for task, kept in ((prompt(), False), (known, True)):
        for again in (False, True):
            (result,) = run(tmp_path, task=SettledTask(task, judged, (judged,)))
            assert result.cached == (kept and again)


def used(entry: Path, seconds: int) -> None:
    os.utime(entry, (1_700_000_000 + seconds,) * 2)


def test_those_used_longest_ago_go_where_all_take_more_than_the_limit(tmp_path):
    cache = PassCache(tmp_path)
    for i, by in enumerate((2.0, 3.0, 4.0)):
        before = set(tmp_path.iterdir())
        run(tmp_path, Scale(by=by))
        (entry,) = set(tmp_path.iterdir()) - before
        used(entry, i)
    size = max(entry.bytes for entry in cache.entries())
    assert run(tmp_path, Scale(by=2.0))[0].cached  # so it is the youngest now
    cache.limit = 7 * size // 2  # seconds are written with more or fewer digits
    run(tmp_path, Scale(by=5.0))
    assert [run(tmp_path, Scale(by=by))[0].cached for by in (2.0, 4.0, 5.0)] == [True] * 3
    assert not run(tmp_path, Scale(by=3.0))[0].cached


def test_an_entry_that_is_larger_than_the_limit_drives_nothing_out(tmp_path):
    run(tmp_path)
    cache = PassCache(tmp_path)
    cache.limit = cache.entries()[0].bytes + 10
    wide = small_graph()
    wide.name = "w" * 1000
    assert not run(tmp_path, graph=wide)[0].cached
    assert not run(tmp_path, graph=wide)[0].cached
    assert run(tmp_path)[0].cached


def test_the_limit_is_ten_gigabytes_until_somebody_says_otherwise(tmp_path):
    assert PassCache(tmp_path).limit == 10_000_000_000
    PassCache(tmp_path).limit = 5
    assert PassCache(tmp_path).limit == 5
    (tmp_path / ".limit").write_text("much")
    assert PassCache(tmp_path).limit == 10_000_000_000


def test_what_killed_runs_left_goes_and_nothing_else_does(tmp_path):
    for name in (".partial-old", "thesis"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    run(tmp_path)
    PassCache(tmp_path).shrink(0)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_what_is_stored_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(os.fstat(descriptor).st_ino))
    before = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), before(a, b)))
    run(tmp_path)
    (entry,) = tmp_path.iterdir()
    synced = set(order[: len(order) - order[::-1].index("rename") - 1])
    assert {path.stat().st_ino for path in (entry, *entry.iterdir())} <= synced
    assert order[-1] == tmp_path.stat().st_ino


def test_a_folder_that_cannot_be_made_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("")
    assert not run(tmp_path / "file" / "cache")[0].cached


@pytest.mark.parametrize("error", [OSError("full"), SafetensorError("I/O error: full")])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, error):
    def fail(graph, folder):
        (folder / "half").write_text("x")
        raise error

    monkeypatch.setattr(stored, "save_bundle", fail)
    assert not run(tmp_path)[0].cached
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(graph, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(stored, "save_bundle", interrupt)
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


OTHER_TARGETS = {
    "backends": Target(backends=("onnx",)),
    "batches": Target(batches=(8,)),
    "threads": Target(threads=2),
    "instruction_set": Target(instruction_set="neon"),
}


@pytest.mark.parametrize("part", OTHER_TARGETS)
def test_a_result_is_for_what_its_pass_reads_of_the_target(tmp_path, monkeypatch, part):
    run(tmp_path)
    assert not run(tmp_path, target=OTHER_TARGETS[part])[0].cached, "a pass that does not say"
    monkeypatch.setattr(Scale, "reads_target", frozenset({part}))
    run(tmp_path)
    for name, target in OTHER_TARGETS.items():
        assert run(tmp_path, target=target)[0].cached == (name != part)
