"""A student that teaches itself: generations, and its own answers of the epoch before."""

import math

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.self_taught.last_epoch import LastEpoch, Remembered
from compressc_distill.renewing import renew
from distill_nets import Start, cut, mlp
from rows_of import softmax
from torch.nn import functional as F

from compressc.distillation import ByLabels, Readings, Seen
from compressc.errors import CompresscError
from compressc.ir import graph_hash, lower
from compressc.pipeline import Context, parse_passes
from compressc.tasks import NO_LABEL
from compressc.testing import check_resumes, export_graph

LABELS = torch.tensor([0, 2, NO_LABEL, 1])


def rows(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, generator=generator, dtype=torch.float64)


def seen(student, own, progress, positions=(3, 0, 5, 1)):
    by = ByLabels(lambda: F.cross_entropy(student, LABELS), True)
    places = torch.tensor(positions)
    ours, theirs = Readings(student), Readings(torch.zeros_like(student))
    return Seen(ours, theirs, LABELS, by, progress, own, positions=places, samples=6)


def by_definition(now, before, share):
    """Targets mixed of the label and of what was answered before, row by row."""
    total = 0.0
    for i, label in enumerate(LABELS.tolist()):
        if label == NO_LABEL:
            continue  # no part in it
        p = softmax(now[i].tolist())
        last = softmax(before[i].tolist()) if before is not None else [0.0] * 3
        a = share if before is not None else 0.0
        for c in range(3):
            right = 1.0 if c == label else 0.0
            total -= ((1 - a) * right + a * last[c]) * math.log(p[c]) / 3
    return total


def test_the_target_is_the_label_and_the_answer_of_the_epoch_before():
    objective, own = LastEpoch(share=0.6), Remembered(6, 3).double()
    first, second, third = rows(0), rows(1), rows(2)
    assert float(objective.mean(seen(first, own, 0.1))) == pytest.approx(
        by_definition(first, None, 0.0), rel=1e-6
    )
    assert float(objective.mean(seen(second, own, 0.5))) == pytest.approx(
        by_definition(second, first, 0.3), rel=1e-6
    )
    own.eval()  # a validation: the labels alone, and nothing is remembered
    assert float(objective.mean(seen(third, own, 1.0))) == pytest.approx(
        by_definition(third, None, 0.0), rel=1e-6
    )
    own.train()
    assert float(objective.mean(seen(third, own, 1.0))) == pytest.approx(
        by_definition(third, second, 0.6), rel=1e-6
    )
    others = seen(third, own, 1.0, positions=(2, 4, 2, 4))  # nobody has seen these
    assert float(objective.mean(others)) == pytest.approx(by_definition(third, None, 0), rel=1e-6)


def test_it_is_refused_where_a_sample_has_several_answers():
    rows_, one = torch.zeros(9, 3), torch.tensor([0])
    of = Seen(Readings(rows_), Readings(rows_), positions=one, samples=6)
    with pytest.raises(CompresscError, match=r"CC301.*one answer to each sample.*9 rows"):
        LastEpoch().check(of)


def train(student, teacher, data, **options):
    ctx = Context(teacher, data)
    Distill(epochs=20, lr=0.03, **options).run(student, ctx)
    return ctx


def right(graph, data):
    return float((lower(graph)(data.train.inputs[0]).argmax(1) == data.train.labels).float().mean())


def test_each_generation_is_taught_by_the_one_before_and_the_best_is_kept(teacher, data):
    graph = cut(teacher)
    ctx = train(graph, teacher, data, generations=3, feature_points=1)
    records = [ctx.records[f"generation {i}"] for i in (1, 2, 3)]
    scores = [one["training"]["best"][1] for one in records]
    kept = [text for _, text in ctx.notes if text.startswith("kept generation")]
    best = scores.index(max(scores)) + 1
    text = ", ".join(f"{score:.4f}" for score in scores)
    assert kept == [f"kept generation {best} of 3: held-out scores {text}"]
    said = [text for _, text in ctx.notes]
    assert any(t.startswith("generation 1: matched with the teacher's %act") for t in said)
    assert any(t.startswith("generation 2: matched by depth with the teacher's %") for t in said)
    alone = cut(teacher)
    train(alone, teacher, data, feature_points=1)
    hashes = [graph_hash(alone)]
    teaching = alone
    for _ in (2, 3):  # by hand, one distillation after another
        student = cut(teacher)
        train(student, teaching, data, feature_points=1, pairs="depth")
        hashes.append(graph_hash(student))
        teaching = student
    assert graph_hash(graph) == hashes[best - 1]
    assert len(set(hashes)) == 3


def test_without_labels_the_last_generation_is_kept(teacher, unlabelled):
    ctx = train(cut(teacher), teacher, unlabelled, generations=2)
    assert "kept generation 2 of 2: no labels to compare them by" in [t for _, t in ctx.notes]


def test_fresh_weights_are_drawn_by_the_seed_and_what_nobody_can_draw_is_said(teacher):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.full((6,), 7.0))
            self.fc = torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x * self.scale)

    graph = export_graph(Scaled().eval(), torch.randn(4, 6))
    before, ctx = {n: t.clone() for n, t in graph.tensors().items()}, Context(graph)
    renew(graph, ctx, 3)
    once = {n: t.clone() for n, t in graph.tensors().items()}
    changed = {name for name, tensor in once.items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert [text for _, text in ctx.notes] == [
        "keeps its weights: nothing says how to draw new ones"
    ]
    renew(graph, ctx, 3)
    assert all(torch.equal(t, once[n]) for n, t in graph.tensors().items())
    renew(graph, ctx, 4)
    assert not torch.equal(graph.tensors()["fc.weight"], once["fc.weight"])


def test_fresh_generations_learn(teacher, data):
    graph = cut(teacher, range(12))
    train(graph, teacher, data, generations=2, fresh=True)
    assert right(graph, data) > 0.9


@pytest.mark.parametrize(
    ("options", "dies_at", "turn"),
    [
        ({"generations": 2, "fresh": True}, 7, 1),
        ({"generations": 3}, 9, 2),
        ({"loss": "last_epoch"}, 11, 1),
    ],
)
def test_killed_and_begun_again_it_is_the_same_run(teacher, data, tmp_path, options, dies_at, turn):
    pass_ = Distill(epochs=3, batch_size=64, **options)
    where = {"dies_at": dies_at, "what": "distill epoch", "turn": turn}
    check_resumes([Start(), pass_], teacher, data, tmp_path, **where)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("distill(generations=0)", "generations"),
        ("distill(fresh=true)", "generations=3"),
        ("distill(generations=2,teachers=a.pt)", "give one of them"),
        ("distill(generations=2,answers_from=a)", "give one of them"),
    ],
)
def test_options_that_contradict_each_other_are_refused(text, hint):
    with pytest.raises(CompresscError, match=rf"CC102.*{hint}"):
        parse_passes(text)


def test_last_epoch_needs_labels(teacher, student, unlabelled):
    with pytest.raises(CompresscError, match=r"CC105.*needs labels"):
        Distill(loss="last_epoch").run(student, Context(teacher, unlabelled))


def test_it_learns_without_a_teacher(teacher, data):
    graph = cut(mlp(), range(12))
    train(graph, teacher, data, loss="last_epoch(share=0.5)")
    assert right(graph, data) > 0.9
