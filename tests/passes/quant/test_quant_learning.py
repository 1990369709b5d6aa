"""`quant(train=true)`: what is rounded learns from the teacher, and stays the graph it was."""

from __future__ import annotations

import re

import pytest
import torch
from compressc_quant import Quant
from pydantic import ValidationError
from quant_nets import Tied, imported, random_data
from torch import nn

from compressc.backend import load_backend
from compressc.ir import graph_hash, load_bundle, lower, save_bundle, verify
from compressc.testing import check_resumes

FOUR = {"bits": 4, "mode": "weights"}


def masked(graph):
    """The text but for scales, and the room that columns take."""
    text = re.sub(r"(_per_tensor\(%[\w.]+), [\d.e-]+,", r"\1, SCALE,", str(graph))
    return re.sub(" +", " ", text)


def error(graph, teacher, split):
    with torch.no_grad():
        want, got = (lower(g)(*split.inputs) for g in (teacher, graph))
    return float((got - want).square().mean())


@pytest.mark.parametrize("options", [FOUR, {"bits": 4, "method": "rtn"}], ids=["weights", "static"])
def test_what_rounding_lost_is_learned_again(teacher, digits, run, options, tmp_path):
    plain, _ = run(teacher, **options)
    graph, context = run(teacher, **options, train=True, steps=90)
    verify(graph, like=teacher)
    assert masked(graph) == masked(plain)
    assert graph.tensors().keys() == plain.tensors().keys()
    for name, tensor in graph.tensors().items():
        before = plain.tensors()[name]
        assert (tensor.shape, tensor.dtype) == (before.shape, before.dtype), name
    record = context.records["training"]
    assert record["best"][0] > 0.6 * record["start"][0]  # minus the loss
    if options is FOUR:
        assert error(graph, teacher, digits.test) < 0.5 * error(plain, teacher, digits.test)
    assert any(re.match("4 rounded layers trained", text) for _, text in context.notes)
    save_bundle(graph, tmp_path)
    assert graph_hash(load_bundle(tmp_path)) == graph_hash(graph)


def test_the_file_of_it_computes_what_the_graph_does(teacher, digits, run, tmp_path):
    graph, _ = run(teacher, bits=4, train=True, steps=5)
    batch = digits.test.take(32).inputs
    backend = load_backend("onnx")
    path = backend.emit(graph, tmp_path, batch)
    with torch.no_grad():
        want = lower(graph)(*batch)
    (got,) = backend.load(path)(*batch)
    assert torch.allclose(torch.as_tensor(got), want, atol=0.03 * float(want.abs().max()))


def test_the_teacher_is_not_touched_and_the_same_seed_gives_the_same_bytes(teacher, run):
    before = graph_hash(teacher)
    first, second = (run(teacher, **FOUR, train=True, steps=5)[0] for _ in "ab")
    assert graph_hash(teacher) == before
    assert graph_hash(first) == graph_hash(second)
    assert graph_hash(first) != graph_hash(run(teacher, **FOUR)[0])


def test_where_training_finds_nothing_better_nothing_changes(teacher, quantized, run):
    graph, context = run(teacher, train=True, steps=3, lr=1.0)
    assert graph_hash(graph) == graph_hash(quantized)
    assert any("nothing better than the start" in text for _, text in context.notes)


def test_it_begins_by_itself_where_too_much_is_lost(teacher, run):
    def records(**options):
        return run(teacher, **FOUR, steps=40, **options)[1].records

    lost = records(max_drop=1.0)
    assert "training" not in lost
    found = records(max_drop=0.0)
    assert "training" in found
    assert found["mixed precision"]["drop"] <= 0.0 or found["mixed precision"]["float"]
    assert "training" not in records(max_drop=0.0, train=False)


def test_tied_weights_stay_tied(run):
    torch.manual_seed(0)
    x = torch.rand(128, 64)
    teacher = imported(Tied().eval(), (x[:4],))
    graph, _ = run(teacher, random_data(x), **FOUR, train=True, steps=10)
    first, second = graph["first"].layer, graph["second"].layer
    assert first.weight is second.weight
    assert first.scale is second.scale
    assert str(graph).count("@first.weight") == 2
    plain, _ = run(teacher, random_data(x), **FOUR)
    assert not torch.equal(first.weight, plain["first"].layer.weight)


def test_ranges_at_run_time_and_tables_are_trained(run):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.fc, self.out = (
                nn.Embedding(20, 16),
                nn.Linear(16, 16),
                nn.Linear(16, 3),
            )

        def forward(self, ids):
            return self.out(self.fc(self.table(ids)).relu().mean(1))

    torch.manual_seed(0)
    ids = torch.randint(0, 20, (256, 6))
    teacher = imported(Net().eval(), (ids[:4],))
    plain, _ = run(teacher, random_data(ids), mode="dynamic")
    graph, context = run(teacher, random_data(ids), mode="dynamic", train=True, steps=30, lr=1e-3)
    assert str(graph) == str(plain)
    assert context.records["training"]["best_epoch"] > 0
    changed = [
        name
        for name in ("table", "fc", "out")
        if not torch.equal(graph[name].layer.scale, plain[name].layer.scale)
    ]
    assert changed == ["table", "fc", "out"]


@pytest.mark.parametrize("step", [39, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_and_begun_again_it_is_the_same_run(teacher, digits, tmp_path, step):
    pass_, what = Quant(**FOUR, train=True, steps=42), "training rounded"
    check_resumes([pass_], teacher, digits, tmp_path, dies_at=step, what=what)


@pytest.mark.parametrize(
    "options",
    [
        {"train": True, "mode": "cast"},
        {"steps": 0},
        {"bits": 4, "mode": "dynamic"},
        {"bits": 4, "smooth": True},
        {"group": 32},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValidationError):
        Quant(**options)


def test_it_needs_data():
    assert Quant(mode="weights", train=True).requirements == {"data"}
    assert not Quant(mode="weights").requirements


def test_the_cache_key_knows_the_objectives():
    names = {cls.name for cls in Quant(train=True).uses()}
    assert {"kd", "cosine", "scaled_mse"} <= names
    assert Quant(max_drop=0.1).uses() == Quant(train=True).uses()
    assert Quant(train=False, max_drop=0.1).uses() == Quant().uses() == ()


def test_inner_values_are_held_against_the_teachers_where_that_is_asked_for(teacher, run):
    """They train the graph otherwise, and beside them the answers still come back."""
    plain, _ = run(teacher, **FOUR, train=True, steps=20)
    graph, context = run(teacher, **FOUR, train=True, steps=20, features=1.0)
    assert graph_hash(graph) != graph_hash(plain)
    assert context.records["training"]["best"][0] > context.records["training"]["start"][0]
    names = [objective.name for objective in Quant(train=True, features=1.0).uses()]
    assert "hint" in names
    assert "hint" not in [objective.name for objective in Quant(train=True).uses()]
