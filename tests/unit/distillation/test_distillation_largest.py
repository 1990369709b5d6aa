"""Answers of which the largest are kept: what they are, and the loss by them."""

import math

import pytest
import torch
from compressc_distill.objectives.kd import Kd

from compressc.data import Split
from compressc.distillation import Answers, Keeping, Shortened, Teacher, look
from compressc.errors import CompresscError
from compressc.tasks import Response, SettledTask
from compressc.tasks.known import of_kind
from compressc.training import Drawn

CPU = torch.device("cpu")


def response(dim=1, learned="class_scores"):
    return Response(0, "out", learned, dim, "", learned, dim)


def task(dim=1):
    judged = response(dim)
    return SettledTask(of_kind("class_scores"), judged, (judged,), labels=True)


def logits(seed, *shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def short_loss(student, teacher, count, temperature, dim=1):
    """kd of the largest answers, as a run computes it."""
    largest = Shortened(count, temperature).of(teacher, response(dim))
    theirs = Answers((largest.nothing,), largest=largest)
    return Kd(T=temperature).mean(look(task(dim), Answers((student,)), theirs, None))


def by_definition(student, teacher, count, temperature):
    """T^2 * KL of k + 1 events by loops over rows `[n, v]`, in Python's floats."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(x / temperature) for x in row] for row in (t, s))
        p, q = ([x / sum(row) for x in row] for row in (p, q))
        known = sorted(range(len(p)), key=lambda i: -p[i])[:count]
        events = [(p[i], q[i]) for i in known]
        events.append((1 - sum(a for a, _ in events), 1 - sum(b for _, b in events)))
        total += sum(a * math.log(a / b) for a, b in events)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_loss_is_that_of_the_known_classes_and_of_any_other(count, temperature):
    student, teacher = logits(0, 20, 10), logits(1, 20, 10)
    want = by_definition(student.double(), teacher.double(), count, temperature)
    got = float(short_loss(student, teacher, count, temperature))
    assert got == pytest.approx(want, rel=1e-4)
    p, q = ((x.double() / temperature).log_softmax(1) for x in (teacher, student))
    full = float((p.exp() * (p - q)).sum(1).mean()) * temperature**2
    if count == 9:  # the tenth is alone among the others
        assert got == pytest.approx(full, rel=1e-5)
    else:
        assert got < full


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_its_gradient(temperature):
    student, teacher = logits(0, 2, 6), logits(1, 2, 6)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(short_loss(student, teacher, 2, temperature), student)
    step = 1e-5
    for row, column in torch.cartesian_prod(torch.arange(2), torch.arange(6)).tolist():
        sides = []
        for sign in (1, -1):
            moved = student.detach().double()
            moved[row, column] += sign * step
            sides.append(by_definition(moved, teacher.double(), 2, temperature))
        slope = (sides[0] - sides[1]) / (2 * step)
        assert float(gradient[row, column]) == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_what_all_others_have_together_counts():
    """Divided by their sum, the two known classes of both teachers would be the same."""
    sure = torch.tensor([[5.0, 4.0, -9.0, -9.0]])
    unsure = torch.tensor([[5.0, 4.0, 3.9, 3.9]])
    student = sure.clone()
    assert float(short_loss(student, sure, 2, 1.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(short_loss(student, unsure, 2, 1.0)) > 0.2


def test_the_mass_of_the_others_is_that_at_the_temperature():
    teacher = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    for temperature in (1.0, 2.0):
        each = [math.exp(x / temperature) for x in teacher[0].tolist()]
        largest = Shortened(1, temperature).of(teacher, response())
        assert float(largest.tail.exp()) == pytest.approx(sum(each[1:]) / sum(each))
        assert float(largest.values.exp()) == pytest.approx(each[0] / sum(each))
        assert largest.indices.tolist() == [[0]]


def test_other_outputs_are_compared_whole():
    student, teacher = logits(0, 4, 10), logits(1, 4, 10)
    largest = Shortened(2, 2.0).of(logits(2, 4, 10), response())
    theirs = Answers((largest.nothing,), largest=largest)
    seen = look(task(), Answers((student,)), theirs, None).among(student, teacher)
    want = Kd(T=2).mean(look(task(), Answers((student,)), Answers((teacher,)), None))
    assert float(Kd(T=2).mean(seen)) == pytest.approx(float(want))


def test_classes_may_be_in_any_dimension():
    student, teacher = logits(0, 2, 7, 3, 4), logits(1, 2, 7, 3, 4)
    rows = [x.movedim(1, -1).reshape(-1, 7) for x in (student, teacher)]
    got = float(short_loss(student, teacher, 3, 2.0))
    assert got == pytest.approx(by_definition(*(x.double() for x in rows), 3, 2.0), rel=1e-4)
    largest = Shortened(3, 2.0).of(teacher, response())
    assert [list(part.shape) for part in largest.parts()] == [[2, 3, 3, 4]] * 2 + [[2, 1, 3, 4]]


def test_masked_classes_leave_no_mass():
    teacher = torch.tensor([[1.0, 0.0, -torch.inf, -torch.inf]])
    largest = Shortened(2, 1.0).of(teacher, response())
    assert float(largest.tail) == -math.inf
    assert torch.isfinite(short_loss(torch.zeros(1, 4), teacher, 2, 1.0))


def test_many_rows_are_looked_at_in_parts(monkeypatch):
    from compressc.distillation import largest as module

    whole = Shortened(2, 1.0).of(logits(0, 9, 5), response())
    monkeypatch.setattr(module, "_NUMBERS", 10)
    parts = Shortened(2, 1.0).of(logits(0, 9, 5), response())
    assert all(torch.equal(a, b) for a, b in zip(whole.parts(), parts.parts(), strict=True))


@pytest.mark.parametrize(("classes", "dtype"), [(1 << 15, torch.int16), (40_000, torch.int32)])
def test_indices_take_as_few_bytes_as_they_can(classes, dtype):
    scores = torch.zeros(1, classes)
    scores[0, -1] = 1.0
    largest = Shortened(1, 1.0).of(scores, response())
    assert largest.indices.dtype == dtype
    assert int(largest.indices) == classes - 1


def test_all_scores_again_to_be_judged():
    teacher = logits(0, 30, 12)
    full = Shortened(3, 2.0).of(teacher, response()).dense()
    assert full.shape == (30, 12)
    assert torch.equal(full.topk(3).indices, teacher.topk(3).indices)
    chances = (full / 2.0).exp()
    torch.testing.assert_close(chances.sum(1), torch.ones(30))
    known, want = chances.topk(3).values, (teacher / 2.0).softmax(1).topk(3).values
    torch.testing.assert_close(known, want)


@pytest.mark.parametrize(
    ("judged", "got"), [(response(), "4 classes"), (response(learned="values"), "values")]
)
def test_what_cannot_be_kept_short_is_refused(judged, got):
    with pytest.raises(CompresscError, match="CC301") as caught:
        Shortened(4, 1.0).of(torch.zeros(2, 4), judged)
    assert caught.value.got == got


# ---- kept by a teacher -------------------------------------------------------------------------


class Read:
    """A teacher with class scores and a number."""

    module = None

    def __call__(self, module, inputs):
        (x,) = inputs
        return Answers((x, x.sum(1)))


def asked(x, how, tmp_path, count=2, temperature=3.0, dtype=torch.float32):
    keeping = Keeping(
        how,
        dtype,
        Shortened(count, temperature),
        folder=lambda key: tmp_path / key,
        most=1 << 20,
    )
    return Teacher(Read(), [], Split((x,)), CPU, keeping, judged=response())


@pytest.mark.parametrize("how", ["memory", "disk", "beside"])
def test_they_are_the_same_kept_or_asked_for(how, tmp_path):
    x, index = logits(0, 300, 9), torch.tensor([299, 0, 150])
    teacher = asked(x, how, tmp_path)
    got = teacher.answers(Drawn(index, None, Split((x[index],))))
    want = Shortened(2, 3.0).of(x[index], response())
    assert all(torch.equal(a, b) for a, b in zip(got.largest.parts(), want.parts(), strict=True))
    assert torch.equal(got.learned[1], x[index].sum(1))
    assert got.learned[0].shape == (3, 0)
    teacher.close()


def test_each_count_and_temperature_has_a_key_of_its_own(tmp_path):
    x = logits(0, 20, 9)
    for options in ({}, {"count": 3}, {"temperature": 1.0}, {}):
        asked(x, "disk", tmp_path, **options).close()
    assert len(list(tmp_path.iterdir())) == 3


def test_half_precision_rounds_what_is_kept(tmp_path):
    x = logits(0, 40, 9)
    index = torch.arange(40)
    teacher = asked(x, "memory", tmp_path, dtype=torch.float16)
    got = teacher.answers(Drawn(index, None, Split((x,)))).largest
    want = Shortened(2, 3.0).of(x, response())
    assert not torch.equal(got.values, want.values)
    torch.testing.assert_close(got.values, want.values, rtol=1e-3, atol=1e-3)
    assert torch.equal(got.indices, want.indices)
    assert teacher.kept.layout.bytes == 40 * (1 + 2 * 2 + 2 * 2 + 2 + 2)  # and a number of 2 bytes
