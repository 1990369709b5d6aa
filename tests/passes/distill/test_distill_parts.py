"""The parts of a distillation: the part held out, the teacher's answers."""

import pytest
import torch
from compressc_distill.telling import Told

from compressc.data import Split
from compressc.distillation import Pair, Reader, Teacher, hold_out
from compressc.pipeline import Context, View
from compressc.training import Drawn, Moment

CPU = torch.device("cpu")


def samples(count, classes=4):
    rows = torch.arange(count, dtype=torch.float32).unsqueeze(1)
    return Split((rows,), torch.arange(count) % classes)


def rows_of(part):
    return part.take(len(part)).inputs[0].squeeze(1).int().tolist()


def test_the_held_out_part_is_apart_stratified_and_seeded():
    kept, held = hold_out(samples(1000), 0.1, seed=0)
    assert sorted(rows_of(kept) + rows_of(held)) == list(range(1000))
    assert torch.bincount(held.all_labels()).tolist() == [25, 25, 25, 25]
    assert rows_of(hold_out(samples(1000), 0.1, seed=0)[1]) == rows_of(held)
    assert rows_of(hold_out(samples(1000), 0.1, seed=1)[1]) != rows_of(held)
    assert all(
        row % 4 == label for row, label in zip(rows_of(held), held.all_labels(), strict=True)
    )


@pytest.mark.parametrize(
    ("total", "share", "want"), [(1000, 0.2, 200), (300, 0.1, 64), (50, 0.1, 25), (2, 0.1, 1)]
)
def test_how_many_are_held_out(total, share, want):
    kept, held = hold_out(samples(total), share, seed=0)
    assert (len(kept), len(held)) == (total - want, want)


def test_a_single_sample_is_taught_and_examined():
    kept, held = hold_out(samples(1), 0.1, seed=0)
    assert rows_of(kept) == rows_of(held) == [0]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_answers_are_the_same_kept_or_asked_for(teacher, cache_bytes):
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    reader = Reader(teacher, ["fc2"], ["act"], CPU)
    asked = Teacher(reader, [Pair("act", "act", {1: (1, 4)})], Split((x,)), CPU, cache_bytes)
    assert (asked.kept is None) == (cache_bytes == 0)
    index = torch.tensor([299, 0, 150])
    answers = asked.answers(Drawn(index, None, Split((x[index],))))
    w = {name: t.detach() for name, t in teacher.tensors().items()}
    hidden = torch.relu(x[index] @ w["fc1.weight"].T + w["fc1.bias"])
    logits = hidden @ w["fc2.weight"].T + w["fc2.bias"]
    assert torch.allclose(answers.learned[0], logits, atol=1e-5)
    assert torch.allclose(answers.features[0], hidden[:, [1, 4]], atol=1e-5)
    assert not answers.learned[0].requires_grad


def test_of_samples_that_change_the_teacher_sees_the_same_view(teacher):
    class Views(Split):
        has_views = True

    reader = Reader(teacher, ["fc2"], [], CPU)
    asked = Teacher(reader, [], Views((torch.zeros(30, 6),)), CPU)
    seen = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    batch = Drawn(torch.arange(4), View(0, 3), Split((seen,)))
    with torch.no_grad():
        assert torch.equal(asked.answers(batch).learned[0], reader.module(seen)[1][0])


def test_the_pace_is_that_of_this_process(teacher):
    heard, now = [], [100.0]
    told = Told(Context(teacher, tell=heard.append), "accuracy", 32, lambda: now[0])
    for step, seconds in ((40, 0.0), (41, 2.0), (44, 6.0)):  # gone on with behind step 39
        now[0] += seconds
        told.stepped(Moment(step, 64, 2, 3, 0.5, (-0.5, 0.9)))
    paces = [(f.facts.get("samples_per_second"), f.facts.get("seconds_left")) for f in heard]
    assert paces == [(None, None), (16.0, 46.0), (16.0, 40.0)]
