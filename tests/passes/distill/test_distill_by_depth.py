"""A student of another family: pairs by depth, and projectors that are learned and dropped."""

import pytest
import torch
from compressc_distill import Distill
from torch import nn

from compressc.data import Dataset, Split
from compressc.distillation import attention_by_depth, pairs_by_depth
from compressc.distillation.points import evenly
from compressc.errors import CompresscError
from compressc.ir import graph_hash
from compressc.pipeline import Context
from compressc.testing import export_graph
from tests.models import ZOO, Vit


def stack(*widths, stride=1):
    """Convolutions with activations, a hidden layer, and three classes."""
    layers, last = [], 1
    for width in widths:
        layers += [nn.Conv2d(last, width, 3, stride, 1), nn.ReLU()]
        last = width
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pool, nn.Linear(last, 9), nn.ReLU(), nn.Linear(9, 3))


def graph_of(module, *example):
    return export_graph(module.eval(), *(example or (torch.randn(4, 1, 8, 8),)))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return graph_of(stack(6, 8, 10, 12))


@pytest.fixture
def student():
    torch.manual_seed(1)
    graph = graph_of(stack(3, 5, stride=2))
    for op in graph:
        op.lineage = ()
    return graph


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(2)
    split = Split((torch.randn(96, 1, 8, 8, generator=generator),))
    return Dataset("random", split, split.take(32), split.take(8))


def shapes(student, teacher, count):
    """What is paired, without the batch."""
    outputs = student.output_names[0], teacher.output_names[0]
    pairs = pairs_by_depth(student, teacher, outputs, count)
    return [
        (
            tuple(student.type_of(pair.student).shape[1:]),
            tuple(teacher.type_of(pair.teacher).shape[1:]),
        )
        for pair in pairs
    ]


def test_ends_of_blocks_are_paired_evenly_and_maps_with_maps(teacher, student):
    # the ends of the teacher: four maps and the hidden layer, of the student two and one
    assert shapes(student, teacher, 9) == [
        ((3, 4, 4), (6, 8, 8)),
        ((5, 2, 2), (10, 8, 8)),
        ((9,), (9,)),
    ]
    assert shapes(student, teacher, 1) == [((9,), (9,))]


@pytest.mark.parametrize(
    ("values", "count", "want"), [(6, 3, [1, 3, 5]), (5, 2, [1, 4]), (3, 1, [2]), (3, 3, [0, 1, 2])]
)
def test_evenly(values, count, want):
    assert evenly(range(values), count) == want


def test_sequences_of_other_lengths_are_no_pairs():
    module, example = ZOO["vit"]()
    teacher = graph_of(module, *example)
    torch.manual_seed(0)
    same = graph_of(Vit(width=16, heads=2, blocks=1), *example)
    assert {len(a) for a, b in shapes(same, teacher, 9)} == {2}
    maps_only = graph_of(stack(3, 5))
    assert shapes(maps_only, teacher, 9) == []


def test_attention_layers_by_depth():
    module, example = ZOO["vit"]()
    teacher = graph_of(module, *example)
    student = graph_of(Vit(width=16, heads=2, blocks=1), *example)
    (pair,) = attention_by_depth(student, teacher)
    assert pair.teacher.name.startswith("blocks.1.")
    assert str(pair).startswith("attention matched by depth with that of the teacher's %blocks.1.")


@pytest.mark.parametrize("loss", ["kd + hint", "kd + pkd", "kd + wkd_f", "kd + at", "kd + vkd"])
def test_a_run_with_projectors(teacher, student, data, loss):
    ctx = Context(teacher, data)
    names = set(student.tensors())
    Distill(loss=loss, epochs=6, lr=0.01, batch_size=16, precision="float32").run(student, ctx)
    assert any(text.startswith("matched by depth with") for _, text in ctx.notes)
    first, *_, last = (epoch["terms"] for epoch in ctx.records["training"]["history"])
    (term,) = set(first) - {"kd"}
    assert 0 < last[term] < first[term]
    assert set(student.tensors()) == names  # projectors are gone


def test_projectors_are_seeded(teacher, student, data):
    hashes = []
    for seed in (0, 0, 1):
        graph = student.copy()
        torch.manual_seed(len(hashes))
        Distill(loss="kd + hint", epochs=2, seed=seed).run(graph, Context(teacher, data))
        hashes.append(graph_hash(graph))
    assert hashes[0] == hashes[1] != hashes[2]


def test_relations_of_attention_need_no_equal_heads_but_scores_do():
    module, example = ZOO["vit"]()
    teacher = graph_of(module, *example)
    student = graph_of(Vit(width=16, heads=2, blocks=1), *example)
    for op in student:
        op.lineage = ()
    split = Split((torch.randn(32, *example[0].shape[1:]),))
    ctx = Context(teacher, Dataset("random", split, split, split))
    with pytest.raises(CompresscError, match=r"CC301.*2 heads for 4"):
        Distill(loss="kd + attention", epochs=1).run(student, ctx)
    Distill(loss="kd + minilm", epochs=1).run(student, ctx)
    assert set(ctx.records["training"]["history"][0]["terms"]) == {"kd", "minilm"}


def test_pairs_by_lineage_alone_leave_features_out(teacher, student, data):
    ctx = Context(teacher, data)
    Distill(epochs=1, pairs="lineage").run(student, ctx)
    assert any("features are off" in text for _, text in ctx.notes)
