"""Pruning in steps: where it ends, what is said, and that a killed run goes on as it was."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from compressc_prune import Prune
from compressc_prune.origin import Uncut
from torch import nn

from compressc.analysis import couple, total_cost
from compressc.data.dataset import Dataset
from compressc.errors import CompresscError
from compressc.events import Event
from compressc.ir import Graph, graph_hash
from compressc.pipeline import PassCache, PassResult, Pipeline
from compressc.spec import make
from compressc.tasks import settle
from compressc.testing import Killed, export_graph
from tests.passes.prune.prune_nets import digit_data, digit_images, pruned
from tests.unit.analysis.analysis_nets import symbolized


@lru_cache
def net() -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 40),
        nn.ReLU(),
        nn.Linear(40, 10),
    ).eval()
    with torch.no_grad():
        module[-1].weight *= 30  # it is sure of its answers: there is something to lose
    return export_graph(module, digit_images(5))


@lru_cache
def data() -> Dataset:
    """A part of the digits: a training is over at once."""
    every = digit_data()
    train, test = every.train.subset(torch.arange(160)), every.test.subset(torch.arange(128))
    return Dataset("few digits", train, train, test)


def run(tell=lambda event: None, folder: Path | None = None, **options: object) -> PassResult:
    options = {"round_to": 1, "steps": 3, "epochs_between": 1, **options}
    graph = net()
    task = settle(graph, data())
    line = Pipeline(
        [make(Prune, options)],
        data(),
        cache=PassCache(folder),
        tell=tell,
        checkpoint_every=0.0,
        task=task,
    )
    return line.run(graph)[0]


def sizes(graph: Graph) -> dict[str, int]:
    return {op.name: len(op.layer.weight) for op in graph if op.role in ("linear", "convolution")}


def test_a_ratio_ends_at_the_sizes_of_a_single_cut():
    once, _ = pruned(net(), ratio=0.6, round_to=8)
    result = run(ratio=0.6, round_to=8)
    assert sizes(result.graph) == sizes(once) == {"0": 16, "4": 16, "6": 10}


def test_weights_are_chosen_and_trained_between():
    result = run(ratio=0.6, epochs_between=4)
    notes = [text for _, text in result.notes if text.startswith("cut ")]
    assert [text[:10] for text in notes] == ["cut 1 of 3", "cut 2 of 3"]
    assert "4 epochs behind it: loss" in notes[0]
    first, second = result.records["steps"]
    for step in (first, second):
        assert step["loss"][1] < step["loss"][0]
        assert step["metric"] == "agreement"  # labels say nothing of a random teacher
    assert 1 > first["left"]["macs"] > second["left"]["macs"] > 0.16
    kept = [text for _, text in result.notes if text.startswith("kept ")]
    assert "kept 16 of 40 channels" in "; ".join(kept)  # of what there was, and each told once
    assert len(kept) == len(set(kept)) == 2


@pytest.mark.parametrize(
    ("option", "allocation"), [("macs", "uniform"), ("params", "global"), ("bytes", "uniform")]
)
def test_a_target_is_met_of_what_there_was(option, allocation):
    result = run(**{option: 0.4, "steps": 2, "allocation": allocation})
    of = {"macs": "macs", "params": "parameters", "bytes": "bytes"}[option]
    left = getattr(total_cost(result.graph, b=1), of) / getattr(total_cost(net(), b=1), of)
    assert left == pytest.approx(0.4, rel=0.03)
    assert result.records["prune"]["left"][of] == pytest.approx(left)
    between = result.records["steps"][0]["left"][of]
    assert between == pytest.approx(0.4**0.5, rel=0.03)


def test_measured_sensitivity_is_taken_anew():
    result = run(macs=0.5, steps=2, allocation="sensitivity")
    rows = result.records["sensitivity"]
    assert {row["size"] for row in rows} < set(range(40))  # of the graph between the cuts
    left = total_cost(result.graph, b=1).macs / total_cost(net(), b=1).macs
    assert left == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("stop", ["behind cut 1", "cutting in steps", "behind cut 2"])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, stop):
    whole = run()
    seen: list[str] = []

    def tell(event: Event) -> None:
        what = str(event.facts.get("what", ""))
        seen.append(what)
        late = seen.count(what) > (1 if stop.startswith("cutting") else 2)
        if stop in what and late:
            raise Killed

    with pytest.raises(Killed):
        run(tell, tmp_path)
    seen.clear()
    again = run(lambda event: seen.append(str(event.facts.get("what", ""))), tmp_path)
    assert graph_hash(again.graph) == graph_hash(whole.graph)
    assert str(again.graph) == str(whole.graph)
    assert again.records == whole.records
    assert again.edits == whole.edits
    assert [note for note in again.notes if note[0]] == [note for note in whole.notes if note[0]]
    if stop != "behind cut 1":  # that one was over
        assert not any("behind cut 1" in what for what in seen)
    assert any("went on behind" in text for _, text in again.notes)


def test_what_cannot_be_met_is_said_before_any_training():
    told: list[str] = []
    with pytest.raises(CompresscError) as caught:
        run(lambda event: told.append(str(event.facts.get("what", ""))), macs=0.001)
    assert caught.value.code == "CC102"
    assert not any("training" in what for what in told)


def test_steps_need_data():
    with pytest.raises(CompresscError, match="CC105"):
        Pipeline([make(Prune, {"steps": 2})]).run(net())


@pytest.mark.parametrize(
    "options", [{"steps": 2, "latency": 0.5, "table": "x"}, {"epochs_between": 3}, {"steps": 0}]
)
def test_options_that_contradict_each_other(options, tmp_path):
    with pytest.raises(CompresscError) as caught:
        make(Prune, options)
    assert caught.value.code in ("CC102", "CC304")


@pytest.mark.parametrize("name", ["gqa_flag", "split_qkv", "grouped"])
def test_widths_are_followed_through_a_cut(name):
    graph = symbolized(name)
    uncut = Uncut(graph, couple(graph), graph)
    after, _ = pruned(graph, ratio=0.5, attention="both")
    now = couple(after)
    origin = uncut.origin(now)
    for width in (width for width in now.widths() if not width.axis.frozen):
        was = origin.widths[width.axis]
        assert was.size >= width.size
        assert was.axis.role == width.axis.role
        assert {slot.op for slot in was.slots} == {slot.op for slot in width.slots}
    cut = uncut.left(now)
    assert cut
    for width, size in cut.items():
        assert size < width.size
        assert size == pytest.approx(width.size / 2, abs=1)
