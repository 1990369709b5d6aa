"""How `distill` trains: precision, lots, batch norms, dropout, and what it says of it."""

import copy

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.distill import batch_size
from distill_nets import cut

from compressc.data import Dataset, Split
from compressc.ir import graph_hash
from compressc.pipeline import Context
from compressc.testing import export_graph
from compressc.training import reestimate


def notes_of(ctx, start=""):
    return [text for _, text in ctx.notes if text.startswith(start)]


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_the_precision_goes_by_the_machine_and_is_said(teacher, student, data, monkeypatch, fast):
    from compressc.training import machine

    monkeypatch.setattr(machine, "fast_precision", lambda device: fast)
    graphs = []
    for options in ({}, {"precision": "float32"}):
        graph, ctx = student.copy(), Context(teacher, data)
        Distill(epochs=3, **options).run(graph, ctx)
        assert bool(notes_of(ctx, "trained in bfloat16")) == (fast == "bfloat16" and not options)
        graphs.append(graph)
    assert (graph_hash(graphs[0]) == graph_hash(graphs[1])) == (fast == "float32")


@pytest.mark.parametrize(
    ("samples", "epochs", "want"), [(1131, 20, 56), (900, 4, 16), (50_000, 10, 64), (10, 1, 16)]
)
def test_small_data_get_more_steps(samples, epochs, want):
    assert batch_size(samples, epochs) == want


def test_a_student_that_does_no_better_than_a_constant_answer_is_said(teacher, student, data):
    with torch.no_grad():  # all answers are class 2 and stay so
        student["fc2"].layer.bias.copy_(torch.tensor([0.0, 0.0, 1e4]))
    ctx = Context(teacher, data)
    Distill(epochs=1, lr=1e-6).run(student, ctx)
    assert notes_of(ctx, "not recovered: a constant answer has accuracy")
    Distill(epochs=20, lr=0.05, holdout=0.3).run(cut(teacher), ctx := Context(teacher, data))
    assert not notes_of(ctx, "not recovered")


@pytest.mark.parametrize("nearly_whole", [True, False])
def test_batch_norms_keep_statistics_that_fit_better_than_those_of_the_samples(nearly_whole):
    # what the net was trained on has another mean and spread than what is at hand
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU())
    net.append(torch.nn.Linear(16, 3))
    reestimate(net, [(3 * torch.randn(500, 6) - 1,)])
    x = torch.randn(400, 6)
    part = Split((x,))
    teacher, student = export_graph(net, x[:4]), export_graph(copy.deepcopy(net), x[:4])
    (norm,) = (op.name for op in student if op.kind == "batch_norm1d")
    with torch.no_grad():
        if nearly_whole:
            student["3"].layer.weight.mul_(0.97)
        else:
            student["0"].layer.weight.mul_(10.0)
            student["0"].layer.bias.add_(20.0)
    remembered = student[norm].layer.running_mean.clone()
    ctx = Context(teacher, Dataset("other", part, part, part))
    Distill(epochs=4).run(student, ctx)
    assert notes_of(ctx, "kept epoch")
    assert torch.equal(student[norm].layer.running_mean, remembered) == nearly_whole
    assert bool(notes_of(ctx, "batch norms keep the statistics they have: loss ")) == nearly_whole


@pytest.mark.parametrize("options", [{}, {"dropout": True}])
def test_dropout_rests_as_it_does_in_the_teacher_unless_it_is_asked_for(data, options):
    net = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Dropout(0.5), torch.nn.Linear(12, 3))
    x = data.train.inputs[0]
    teacher = export_graph(net.eval(), x[:4])
    student = teacher.copy()
    ctx = Context(teacher, data)
    modes = []
    (layer,) = (op.layer for op in student if op.kind == "dropout")
    layer.register_forward_hook(lambda module, args, out: modes.append(module.training))
    Distill(epochs=1, **options).run(student, ctx)
    assert any(modes) == bool(options)
