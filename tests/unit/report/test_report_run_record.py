"""From a run to its record: every score and size is that of the graph it is said to be of."""

from types import SimpleNamespace

import pytest
import torch
from compressc_simplify import Simplify
from torch import nn

from compressc.data import Dataset, Split
from compressc.ir import lower
from compressc.measure import Judge
from compressc.pipeline import PassResult
from compressc.pipeline.ordering import Step
from compressc.report.run_record import Recorder
from compressc.tasks import settle
from compressc.testing import export_graph


class Counting(nn.Module):
    """Tells how many tokens are there, and then scores two classes of each."""

    def __init__(self, weight):
        super().__init__()
        self.fc = nn.Linear(3, 2, bias=False)
        self.fc.weight.data = torch.tensor(weight)

    def forward(self, x):
        return x.sum((1, 2)).long(), self.fc(x)


#: The classes of one-hot tokens are 0, 1, 1 for the teacher; 0, 1, 0 and 0, 0, 0 for the others.
TEACHER = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
FIRST = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
SECOND = [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


def tokens(*sequences):
    return torch.eye(3)[torch.tensor(sequences)]


#: Four tokens of a sample; the labels of the last sample say otherwise than the teacher.
TEST = Split((tokens([0, 1, 2, 2], [2, 2, 0, 0]),), torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1]]))
#: Parts that would give other figures: what passes may see is not what a run is judged by.
SEEN = Split((tokens([0, 1, 0, 0], [1, 1, 0, 0]),), torch.tensor([[0, 1, 0, 0], [1, 1, 0, 0]]))


def result(weight, **more):
    graph = export_graph(Counting(weight).eval(), torch.zeros(2, 5, 3))
    values = {"seconds": 1.5, "cached": True, "edits": {"erase": 2}, "notes": [("fc", "why")]}
    return PassResult(Step(Simplify(), None), graph, **(values | more))


def record(data, *results, judged=None):
    graph = open_graph(TEACHER)
    task = None if data is None else settle(graph, data, judged)
    loaded = SimpleNamespace(graph=graph, source="net.pt", notes=["read so"])
    judge = None if task is None else Judge(task, lower(graph), data.test)
    recorder = Recorder(loaded, data, judge)
    for each in results:
        recorder.add(each)
    return recorder.record(seed=3, command="the command")


def open_graph(weight):
    from compressc.frontend import load_model

    return load_model(Counting(weight).eval(), input_spec=["x: f32[b,s,3]"]).graph


DATA = Dataset("made", SEEN, SEEN, TEST)


def test_scores_are_those_of_each_graph_on_the_test_part():
    made = record(DATA, result(FIRST), result(SECOND))
    assert made.task.output == "fc"  # not the count, which comes first
    assert (made.task.name, made.task.named) == ("tokens", False)
    assert [metric.name for metric in made.task.metrics] == ["accuracy", "agreement"]
    assert made.teacher.scores == {"accuracy": 7 / 8}  # that it agrees with itself says nothing
    # eight tokens 0, 1, 2, 2, 2, 2, 0, 0: the first result turns every 2 into a 0, the second the 1
    assert made.passes[0].scores == {"accuracy": 3 / 8, "agreement": 4 / 8}
    assert made.passes[1].scores == {"accuracy": 2 / 8, "agreement": 3 / 8}
    assert made.task.constant == {"accuracy": 6 / 8, "agreement": 5 / 8}


def test_sizes_and_costs_are_those_of_the_graphs_on_the_data():
    made = record(DATA, result(FIRST))
    assert made.sizes == {"s": 4}
    assert (made.teacher.parameters, made.teacher.macs) == (6, 4 * 6)
    assert (made.passes[0].parameters, made.passes[0].ops) == (6, len(result(FIRST).graph))
    assert record(None, result(FIRST)).sizes == {"s": 128}


def test_what_a_pass_did_is_kept():
    made = record(DATA, result(FIRST), result(FIRST, edits={}, notes=[]))
    entry = made.passes[0]
    assert (entry.name, entry.text, entry.effect, entry.version) == (
        "simplify",
        "simplify",
        "exact",
        "1",
    )
    assert (entry.seconds, entry.cached, entry.edits) == (1.5, True, {"erase": 2})
    assert [(note.op, note.text) for note in entry.notes] == [("fc", "why")]
    assert [entry.idle for entry in made.passes] == [False, True]
    added = PassResult(Step(Simplify(), "quant"), open_graph(FIRST), 0.0, False)
    assert record(DATA, added).passes[0].inserted_for == "quant"
    assert not record(DATA, added).passes[0].idle  # nobody asked for it


def test_the_run_is_described():
    made = record(DATA)
    assert (made.seed, made.command) == (3, "the command")
    assert (made.teacher.source, made.teacher.notes[0].text) == ("net.pt", "read so")
    assert (made.data.name, made.data.train, made.data.test) == ("made", 2, 2)
    assert made.data.fingerprint == DATA.fingerprint


def test_without_data_nothing_is_judged():
    made = record(None, result(FIRST))
    assert (made.task, made.data) == (None, None)
    assert (made.teacher.scores, made.passes[0].scores) == ({}, {})


def test_another_output_may_be_judged():
    bare = Split(TEST.inputs)
    made = record(Dataset("made", bare, bare, bare), result(FIRST), judged="to")
    assert made.passes[0].scores == pytest.approx({"agreement": 1.0})
