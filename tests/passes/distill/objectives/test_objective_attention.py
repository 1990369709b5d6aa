"""attention and minilm: each by its definition in plain loops."""

import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from compressc_distill.objectives.attention import AttentionScores
from compressc_distill.objectives.minilm import MiniLm
from features import differences, random_feature
from rows import softmax

from compressc.distillation import Attention, Readings, Seen
from compressc.errors import CompresscError

BATCH, PLACES = 2, 3


def layer(seed, heads=2, width=2, keys=None, **more):
    """Random queries, keys and values, f64[b, heads, s, width]."""
    sizes = (heads, keys or heads, keys or heads)
    parts = (
        random_feature(10 * seed + i, BATCH, count, PLACES, width) for i, count in enumerate(sizes)
    )
    return Attention(*parts, scale=width**-0.5, **more)


def seen(students, teachers, **more):
    rows = torch.zeros(BATCH, 1)
    sides = (Readings(rows, attention=tuple(side)) for side in (students, teachers))
    return Seen(*sides, **more)


def hold(objective, by_definition, student, teacher, **more):
    """Value, and the gradient by query, key and value, against differences of the definition."""
    names = ("query", "key", "value")
    moving = {name: getattr(student, name).clone().requires_grad_() for name in names}
    loss = objective.mean(seen([replace(student, **moving)], [teacher], **more))
    want = by_definition(student, teacher)
    assert loss.item() == pytest.approx(want, rel=1e-6)
    slopes = torch.autograd.grad(loss, list(moving.values()), allow_unused=True)
    for name, slope in zip(names, slopes, strict=True):
        by_part = differences(
            lambda x, name=name: by_definition(replace(student, **{name: x}), teacher),
            getattr(student, name),
        )
        got = torch.zeros_like(by_part) if slope is None else slope
        torch.testing.assert_close(got, by_part, rtol=1e-4, atol=1e-6)


def score(layer, i, h, p, q):
    """The product of a query and a key, scaled; several heads of queries may share one of keys."""
    shared = layer.query.shape[1] // layer.key.shape[1]
    pair = zip(layer.query[i, h, p].tolist(), layer.key[i, h // shared, q].tolist(), strict=True)
    return layer.scale * sum(a * b for a, b in pair)


def scores(kept=None, counts=lambda i, p, q: True):
    def loss(student, teacher):
        return fmean(
            (score(student, i, h, p, q) - score(teacher, i, kept[h] if kept else h, p, q)) ** 2
            for i in range(BATCH)
            for h in range(student.query.shape[1])
            for p in range(PLACES)
            for q in range(PLACES)
            if counts(i, p, q)
        )

    return loss


def test_scores_by_their_definition():
    hold(AttentionScores(), scores(), layer(0), layer(1))


def test_heads_that_are_left_are_held_against_those_they_came_from():
    student = layer(0, heads=2, kept=(3, 1))
    hold(AttentionScores(), scores(kept=(3, 1)), student, layer(1, heads=4))


def test_queries_that_share_keys():
    hold(AttentionScores(), scores(), layer(0, heads=4, keys=2), layer(1, heads=4, keys=2))


def test_places_that_a_mask_leaves_out_do_not_count():
    causal = torch.ones(PLACES, PLACES, dtype=torch.bool).tril()[None, None]
    student, teacher = (replace(layer(i), allowed=causal) for i in (0, 1))
    hold(AttentionScores(), scores(counts=lambda i, p, q: q <= p), student, teacher)


@pytest.mark.parametrize("said", ["by the mask", "by the inputs"])
def test_padding_counts_on_neither_side(said):
    valid = torch.tensor([[True, True, False], [True, True, True]])
    more = {"valid": valid} if said == "by the inputs" else {}
    allowed = valid[:, None, None, :].expand(-1, 1, PLACES, -1) if said == "by the mask" else None
    student, teacher = (replace(layer(i), allowed=allowed) for i in (0, 1))
    counts = scores(counts=lambda i, p, q: bool(valid[i, p] and valid[i, q]))
    hold(AttentionScores(), counts, student, teacher, **more)
    hold(MiniLm(), relations(2, valid), student, teacher, **more)
    with torch.no_grad():
        for part in (teacher.query, teacher.key, teacher.value):
            part[0, :, 2] = 1e6
    hold(AttentionScores(), counts, student, teacher, **more)


def test_a_bias_is_part_of_the_scores():
    bias = random_feature(7, 1, 2, PLACES, PLACES)
    moved = replace(layer(0), bias=bias)
    want = bias.pow(2).mean().item()
    assert AttentionScores().mean(seen([moved], [layer(0)])).item() == pytest.approx(want)


def test_other_heads_are_refused_unless_it_is_known_which_they_are():
    with pytest.raises(CompresscError, match=r"CC301.*2 heads for 4 of the teacher"):
        AttentionScores().check(seen([layer(0, heads=2)], [layer(1, heads=4)]))
    AttentionScores().check(seen([layer(0, heads=2, kept=(0, 1))], [layer(1, heads=4)]))


def relations(heads, valid=None):
    """MiniLMv2, section 3.1: heads put together, cut anew, related place by place."""

    def related(x, i, head, places):
        wide = [[n for h in range(x.shape[1]) for n in x[i, h, p].tolist()] for p in range(PLACES)]
        width = len(wide[0]) // heads
        cut = [row[head * width : (head + 1) * width] for row in wide]
        return [
            softmax(
                [
                    sum(a * b for a, b in zip(cut[p], cut[q], strict=True)) / math.sqrt(width)
                    for q in places
                ]
            )
            for p in places
        ]

    def loss(student, teacher):
        total = 0.0
        for name in ("query", "key", "value"):
            found = []
            for i in range(BATCH):
                places = [p for p in range(PLACES) if valid is None or valid[i, p]]
                for head in range(heads):
                    sides = (related(getattr(x, name), i, head, places) for x in (teacher, student))
                    for a, b in zip(*sides, strict=True):
                        found.append(sum(x * math.log(x / y) for x, y in zip(a, b, strict=True)))
            total += fmean(found)
        return total

    return loss


@pytest.mark.parametrize("heads", [1, 2])
def test_relations_by_their_definition(heads):
    hold(MiniLm(heads=heads), relations(heads), layer(0), layer(1))


def test_relations_of_fewer_and_narrower_heads_than_the_teachers():
    # widths 2 * 2 and 4 * 3: as many relation heads as the teacher's, 4, divide both
    student, teacher = layer(0, heads=2, width=2), layer(1, heads=4, width=3)
    hold(MiniLm(), relations(4), student, teacher)
    # widths 6 and 4: 2 at most
    hold(MiniLm(), relations(2), layer(0, heads=3, width=2), layer(1, heads=4, width=1))


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(CompresscError, match=r"CC301.*divide into 3 heads.*widths 4"):
        MiniLm(heads=3).check(seen([layer(0)], [layer(1)]))
    MiniLm(heads=4).check(seen([layer(0)], [layer(1)]))


@pytest.mark.parametrize(("count", "depth", "want"), [(12, 0.875, 10), (24, 0.875, 20), (2, 1, 1)])
def test_the_layer_is_one_of_the_last_third(count, depth, want):
    students, teachers = [layer(i) for i in range(count)], [layer(50 + i) for i in range(count)]
    alone = MiniLm(depth=depth).mean(seen([students[want]], [teachers[want]]))
    assert MiniLm(depth=depth).mean(seen(students, teachers)) == alone


@pytest.mark.parametrize("objective", [AttentionScores(), MiniLm()], ids=lambda o: o.name)
def test_the_teacher_itself_has_no_loss_and_no_gradient(objective):
    query = layer(0).query.clone().requires_grad_()
    loss = objective.mean(seen([replace(layer(0), query=query)], [layer(0)]))
    (slope,) = torch.autograd.grad(loss, query)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert slope.abs().max() < 1e-9
