"""Runs whose loss is of inner values: each term falls, on maps and on sequences."""

from functools import partial

import pytest
import torch
from compressc_distill import Distill
from torch import nn

from compressc.analysis import symbolize_widths
from compressc.data import Dataset, Split
from compressc.distillation import Keeping, Teacher, given_basis, reader_of
from compressc.errors import CompresscError
from compressc.pipeline import Context, parse_pass
from compressc.tasks import task_of
from compressc.testing import export_graph
from tests.models import ZOO
from tests.passes.transformer_nets import random_data, transformer


def conv_and_hidden_layer():
    """Feature points that are a map and a vector."""
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    return net.eval(), (torch.randn(4, 1, 6, 6),)


NETS = ZOO | {"conv_and_hidden_layer": conv_and_hidden_layer}


#: How far the student is off; of vectors that are nearly alike, `pkt` is rounding.
NOISE = {"pkt": 2.0}


def case(name, samples=64, noise=0.3):
    """A teacher, a student of the same shape whose weights are off, and data without labels."""
    module, example = NETS[name]()
    teacher = export_graph(module, *example)
    symbolize_widths(teacher)
    student, generator = teacher.copy(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (t for t in student.tensors().values() if t.requires_grad):
            off = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * parameter.std(correction=0).clamp_min(0.05) * off)
    split = Split((torch.randn(samples, *example[0].shape[1:], generator=generator),))
    return teacher, student, Dataset("random", split, split.take(32), split.take(8))


def train(name, loss, **options):
    """Terms of the first and the last epoch, and the notes."""
    teacher, student, data = case(name, noise=NOISE.get(loss, 0.3))
    ctx = Context(teacher, data)
    settings = {"epochs": 4, "lr": 0.003, "batch_size": 16, "precision": "float32"} | options
    Distill(loss=loss, **settings).run(student, ctx)
    history = ctx.records["training"]["history"]
    return history[0]["terms"], history[-1]["terms"], ctx.notes


@pytest.mark.parametrize(
    ("net", "objective"),
    [
        *(("digits_cnn", name) for name in ("wkd_f", "wkd_f(grid=2)", "pkd", "cwd", "at", "nst")),
        ("digits_cnn", "vkd"),
        ("vit", "hidden"),
        ("vit", "vkd"),
        ("vit", "attention"),
        ("vit", "minilm"),
        *(("vit", name) for name in ("rkd", "sp", "pkt", "cc", "queue(size=40)")),
    ],
)
def test_a_run_lessens_the_term(net, objective):
    first, last, _ = train(net, objective)
    (name,) = first
    assert 0 < last[name] < 0.9 * first[name]


@pytest.mark.parametrize("objective", ["attention", "minilm"])
def test_heads_that_pruning_left_learn_from_those_they_came_from(objective):
    teacher = transformer("bert")
    data, student = random_data(teacher, samples=48), teacher.copy()
    _, mask = data.train.inputs
    mask[::2, 4:] = 0
    ctx = Context(teacher, data)
    parse_pass("prune(ratio=0.5,refit=false)").run(student, ctx)
    ctx.notes.clear()
    Distill(loss=f"kd + 10*{objective}", epochs=3, lr=0.003, answers="memory").run(student, ctx)
    matched = [text for _, text in ctx.notes if text.startswith("attention matched")]
    assert len(matched) == 2
    assert all(text.endswith(", 2 of its heads") for text in matched)
    first, *_, last = (epoch["terms"] for epoch in ctx.records["training"]["history"])
    assert 0 < last[objective] < first[objective]


@pytest.mark.parametrize("name", ["attention", "minilm"])
def test_a_term_of_attention_is_refused_where_there_is_none(name):
    with pytest.raises(CompresscError) as caught:
        train("digits_cnn", f"kd + {name}", epochs=1)
    assert caught.value.code == "CC506"
    assert f"objective '{name}' reads attention layers, and there are none" in str(caught.value)
    assert f"the loss kd + {name}" in str(caught.value)


def test_points_that_do_not_suit_a_term_are_noted():
    _, _, notes = train("conv_and_hidden_layer", "kd + pkd", epochs=1)
    texts = [text for _, text in notes if text.startswith("no point of pkd")]
    assert texts == ["no point of pkd: [b, 8] where maps [b, c, h, w] are needed"]


def test_a_term_that_no_point_suits_ends_the_run():
    with pytest.raises(CompresscError, match=r"CC301.*'pkd' needs maps"):
        train("vit", "kd + pkd", epochs=1)


@pytest.mark.parametrize("ahead", [False, True])
def test_relations_are_of_what_the_head_reads_unless_answers_were_written_ahead(ahead, tmp_path):
    teacher, student, data = case("digits_cnn")
    ctx = Context(teacher, data)
    options = {"loss": "kd + rkd", "epochs": 1, "lr": 0.003}
    if ahead:
        task = task_of(ctx)
        reader = reader_of(teacher, task, [], torch.device("cpu"))
        basis = partial(given_basis, teacher, task, None)
        keeping = Keeping(
            "disk", folder=lambda key: tmp_path / "answers", most=1 << 20, basis=basis
        )
        asked = Teacher(reader, [], data.train, torch.device("cpu"), keeping)
        asked.fill_all(0)
        asked.close()
        options["answers_from"] = str(tmp_path / "answers")
    Distill(**options).run(student, ctx)
    told = [text for _, text in ctx.notes if text.startswith("samples are compared by")]
    assert len(told) == (0 if ahead else 1)
    assert ctx.records["training"]["history"][0]["terms"]["rkd"] > 0
