from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash, parse_graph
from compressc.pipeline import Context, PassCache, Pipeline, check_exact, write_snapshots
from tests.unit.ir.mapped_memory import weights_in_a_file
from tests.unit.pipeline.pipeline_passes import (
    Break,
    Exact,
    NeedsData,
    Noise,
    Scale,
    data,
    small_graph,
)

pytestmark = pytest.mark.usefixtures("passes")


def error_of(*passes, **options) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        Pipeline(passes, **options).run(small_graph())
    return caught.value


@pytest.mark.parametrize("how", ["shape", "kind", "output", "nan"])
def test_a_pass_that_breaks_the_graph_is_named(how):
    error = error_of(Scale(), Break(how=how))
    assert error.code == "CC500"
    assert "'break'" in error.wanted
    inside = {"nan": "CC205", "output": "CC401", "shape": "CC401"}.get(how, "")
    assert inside in error.got


def test_a_pass_that_raises_is_named():
    error = error_of(Break(how="raise"))
    assert error.code == "CC601"
    assert "ZeroDivisionError: a library failed" in str(error)
    assert error.where == "break(how=raise)"


def test_an_error_of_ours_passes_through():
    assert error_of(Break(how="own")).code == "CC502"


@pytest.mark.parametrize("given", [None, data()])
def test_an_exact_pass_that_is_not(given):
    assert error_of(Exact(by=1.01), data=given).code == "CC501"
    assert error_of(Exact(by=1.01), data=given).wanted.startswith("pass 'exact'")
    Pipeline([Exact(by=1.0)], given).run(small_graph())


def test_infinite_outputs_may_stay_infinite_and_new_ones_may_not():
    before = small_graph()
    inputs = (torch.tensor([[3e38, 3e38, 0, 0], [1.0, 2, 3, 4]]),)
    check_exact(Exact(), before, before.copy(), inputs)
    after = before.copy()
    torch.nn.init.constant_(after["b"].layer.weight, 3e38)
    with pytest.raises(CompresscError, match="CC501"):
        check_exact(Exact(), before, after, (torch.ones(2, 4) * 9,))


def test_a_teacher_with_nan_is_refused_before_any_work():
    graph = small_graph()
    torch.nn.init.constant_(graph["a"].layer.weight, float("nan"))
    with pytest.raises(CompresscError, match="CC205"):
        Pipeline([Scale()]).run(graph)
    assert not Scale.runs


def test_the_teacher_is_never_edited():
    teacher = small_graph()
    hashes = [graph_hash(teacher)]
    Pipeline([Scale(), Noise()]).run(teacher, lambda done: hashes.append(graph_hash(done.graph)))
    assert graph_hash(teacher) == hashes[0]
    assert len(set(hashes)) == 3


def test_what_a_pass_began_with_holds_no_memory_while_it_works():
    seen: list[list[bool]] = []
    held: list[Graph] = []

    class Looks(Scale):
        name = "looks"

        def run(self, graph, ctx):
            super().run(graph, ctx)
            seen.append([weights_in_a_file(g) for g in held])

    teacher = small_graph()
    Pipeline([Looks(), Looks()]).run(teacher, lambda done: held.append(done.graph))
    assert seen == [[], [True]]
    assert not weights_in_a_file(teacher)


def test_weights_of_earlier_results_are_set_aside_and_can_be_read():
    given: list[str] = []
    results = Pipeline([Scale(), Scale(), Noise()]).run(
        small_graph(), lambda done: given.append(graph_hash(done.graph))
    )
    assert len(set(given)) == 3
    assert [graph_hash(result.graph) for result in results] == given
    assert [weights_in_a_file(result.graph) for result in results] == [True, True, False]


def test_edits_and_notes_are_recorded():
    (result,) = Pipeline([Scale()]).run(small_graph())
    assert result.edits == {"set_layer": 1}
    assert result.notes == [("a", "scaled by 2.0")]
    assert not result.cached


def test_records_are_kept_as_json_has_them():
    ctx = Context(small_graph())
    ctx.record("history", [{"loss": float("nan"), "score": (1, 2.5)}, None, "text", True])
    assert ctx.records == {"history": [{"loss": None, "score": [1, 2.5]}, None, "text", True]}
    with pytest.raises(TypeError, match="not Tensor"):
        ctx.record("weights", [torch.ones(1)])


def test_passes_see_the_data():
    assert Pipeline([NeedsData()], data()).run(small_graph())[0].notes == [("a", "8")]


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_generators_alone():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    graph = small_graph()
    torch.set_rng_state(states[0])
    hashes = [graph_hash(Pipeline([Noise()], seed=s).run(graph)[0].graph) for s in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


def test_a_pass_may_take_gradients_whatever_the_caller_does():
    class Differentiate(Noise):
        name = "differentiate"

        def run(self, graph, ctx):
            graph["a"].layer.weight.sum().backward()

    with torch.no_grad():
        Pipeline([Differentiate()]).run(small_graph())


def test_snapshots_read_back(tmp_path):
    results = Pipeline([Scale(), Noise()]).run(small_graph())
    write_snapshots(results, tmp_path / "s")
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["01-scale.txt", "02-noise.txt"]
    text = (tmp_path / "s" / "02-noise.txt").read_text()
    assert str(parse_graph(text, results[1].graph.tensors())) == text


def test_each_pass_is_told_of_with_its_number():
    told = []
    Pipeline([Scale(), Noise()], tell=told.append).run(small_graph())
    assert [(e.kind, e.facts["pass"], e.facts["number"]) for e in told] == [
        *(("pass", "scale", 1), ("pass_done", "scale", 1)),
        *(("pass", "noise", 2), ("pass_done", "noise", 2)),
    ]
    assert told[1].facts["edits"] == {"set_layer": 1}
    assert told[1].facts["cached"] is False
    assert told[0].facts["passes"] == 2


def test_without_a_folder_nothing_is_kept():
    for _ in range(2):
        assert not Pipeline([Scale()], cache=PassCache(None)).run(small_graph())[0].cached
