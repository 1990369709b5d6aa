"""Objectives of how samples lie to one another, each by its definition in plain loops."""

import math
from statistics import fmean

import pytest
import torch
from compressc_distill.objectives.cc import Cc
from compressc_distill.objectives.pkt import Pkt
from compressc_distill.objectives.queue import Queue
from compressc_distill.objectives.rkd import Rkd
from compressc_distill.objectives.sp import Sp
from features import differences, random_feature
from rows import softmax

from compressc.distillation import Readings, Seen
from compressc.errors import CompresscError

#: Of other widths: relations do not mind.
STUDENT, TEACHER = random_feature(0, 5, 3), random_feature(1, 5, 4)
ALL = [Rkd(), Sp(), Pkt(), Cc(), Queue()]


def seen(student, teacher, **more):
    rows = torch.zeros(len(student), 1)
    return Seen(Readings(rows, vectors=student), Readings(rows, vectors=teacher), **more)


def hold(objective, by_definition, student=STUDENT, teacher=TEACHER, **more):
    moving = student.clone().requires_grad_()
    loss = objective.mean(seen(moving, teacher, **more))
    (gradient,) = torch.autograd.grad(loss, moving)
    want = by_definition(student.tolist(), teacher.tolist())
    assert loss.item() == pytest.approx(want, rel=1e-6)
    slopes = differences(lambda x: by_definition(x.tolist(), teacher.tolist()), student)
    torch.testing.assert_close(gradient, slopes, rtol=1e-4, atol=1e-6)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def minus(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def smooth_l1(a, b):
    off = abs(a - b)
    return off**2 / 2 if off < 1 else off - 0.5


def rkd(distance, angle):
    def distances(x):
        n = range(len(x))
        far = {(i, j): math.dist(x[i], x[j]) for i in n for j in n if i != j}
        mean = fmean(far.values())
        return {pair: d / mean for pair, d in far.items()}

    def angles(x):
        n = range(len(x))
        return {
            (i, j, k): cosine(minus(x[j], x[i]), minus(x[k], x[i]))
            for i in n
            for j in n
            for k in n
            if len({i, j, k}) == 3
        }

    def loss(student, teacher):
        total = 0.0
        for weight, relation in ((distance, distances), (angle, angles)):
            s, t = relation(student), relation(teacher)
            total += weight * fmean(smooth_l1(s[key], t[key]) for key in s)
        return total

    return loss


def sp(student, teacher):
    def rows(x):
        found = [[dot(a, b) for b in x] for a in x]
        return [[v / math.sqrt(dot(row, row)) for v in row] for row in found]

    pairs = zip(rows(student), rows(teacher), strict=True)
    return fmean((a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True))


def pkt(student, teacher):
    def likely(x):
        near = [[(cosine(a, b) + 1) / 2 if a is not b else 0.0 for b in x] for a in x]
        return [[v / sum(row) for v in row] for row in near]

    pairs = zip(likely(student), likely(teacher), strict=True)
    return fmean(b * math.log(b / a) for s, t in pairs for a, b in zip(s, t, strict=True) if b)


def cc(gamma, order):
    def kernel(x):
        return [
            math.exp(-2 * gamma)
            * sum((2 * gamma * cosine(a, b)) ** p / math.factorial(p) for p in range(order + 1))
            for a in x
            for b in x
        ]

    def loss(student, teacher):
        pairs = zip(kernel(student), kernel(teacher), strict=True)
        return fmean((a - b) ** 2 for a, b in pairs)

    return loss


@pytest.mark.parametrize(
    ("objective", "definition"),
    [
        (Rkd(), rkd(1.0, 2.0)),
        (Rkd(distance=3, angle=0), rkd(3.0, 0.0)),
        (Sp(), sp),
        (Pkt(), pkt),
        (Cc(), cc(0.4, 2)),
        (Cc(gamma=1.5, order=5), cc(1.5, 5)),
    ],
    ids=lambda x: getattr(x, "text", ""),
)
def test_by_their_definitions(objective, definition):
    hold(objective, definition)


def test_a_polynomial_of_high_order_is_the_gaussian_kernel():
    unit = torch.nn.functional.normalize(STUDENT)
    want = torch.exp(-0.7 * torch.cdist(unit, unit) ** 2)
    # of a teacher of one direction the kernel is 1 everywhere
    loss = Cc(gamma=0.7, order=20).mean(seen(STUDENT, torch.ones_like(STUDENT)))
    assert loss.item() == pytest.approx((want - 1).pow(2).mean().item(), rel=1e-6)


@pytest.mark.parametrize("objective", ALL, ids=lambda o: o.name)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_of_one_or_two_is_finite(objective, rows):
    student = STUDENT[:rows].clone().requires_grad_()
    own = made(objective, seen(student, TEACHER[:rows]))
    loss = objective.mean(seen(student, TEACHER[:rows], own=own))
    (slope,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(slope).all()
    if rows == 1:
        assert loss.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("objective", ALL, ids=lambda o: o.name)
def test_samples_that_are_alike_or_zero_have_a_finite_gradient(objective):
    student = STUDENT.clone()
    student[1], student[2] = student[0], 0.0
    student.requires_grad_()
    own = made(objective, seen(student, TEACHER))
    (slope,) = torch.autograd.grad(objective.mean(seen(student, TEACHER, own=own)), student)
    assert torch.isfinite(slope).all()
    assert 0 < slope.abs().max() < 1e3


@pytest.mark.parametrize("objective", ALL, ids=lambda o: o.name)
def test_a_single_number_is_refused(objective):
    with pytest.raises(CompresscError, match=r"CC301.*vectors of 2 numbers or more"):
        objective.check(seen(STUDENT[:, :1], TEACHER))
    objective.check(seen(STUDENT, TEACHER))


def made(objective, of):
    """The module of an objective, in float64."""
    torch.manual_seed(0)
    module = objective.module(of)
    return module if module is None else module.double()


def queue(temperature, weight, keys):
    """Against keys that are given; the student by its map."""

    def loss(student, teacher):
        found = []
        for s, t in zip(student, teacher, strict=True):
            image = [dot(row, s) for row in weight]
            q, p = (softmax([cosine(x, k) / temperature for k in keys]) for x in (image, t))
            found.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        return fmean(found)

    return loss


def test_queue_by_its_definition():
    objective = Queue(T=0.5)
    own = made(objective, seen(STUDENT, TEACHER)).eval()
    weight = own.project.weight.tolist()
    hold(objective, queue(0.5, weight, TEACHER.tolist()), own=own)


def test_the_queue_holds_the_latest_vectors_of_the_teacher():
    objective = Queue(T=0.5, size=7)
    own = made(objective, seen(STUDENT, TEACHER))
    before, after = random_feature(2, 5, 4), TEACHER
    first = objective.mean(seen(STUDENT, before, own=own)).item()
    weight = own.project.weight.tolist()
    batch = STUDENT.tolist(), before.tolist()
    assert first == pytest.approx(queue(0.5, weight, before.tolist())(*batch), rel=1e-6)
    second = objective.mean(seen(STUDENT, after, own=own)).item()
    kept = [*before[3:].tolist(), *after.tolist()]  # 7 of 10
    batch = STUDENT.tolist(), after.tolist()
    assert second == pytest.approx(queue(0.5, weight, kept)(*batch), rel=1e-6)
    assert own.count.item() == 10


def test_nothing_is_stored_while_validating():
    objective = Queue()
    own = made(objective, seen(STUDENT, TEACHER)).eval()
    objective.mean(seen(STUDENT, TEACHER, own=own))
    assert own.count.item() == 0
    assert not own.vectors.any()


def test_the_queue_is_part_of_a_checkpoint():
    own = made(Queue(size=6), seen(STUDENT, STUDENT))
    assert set(own.state_dict()) == {"vectors", "count"}
    kept = own.vectors
    own.keys(TEACHER[:, :3])
    assert own.vectors is kept  # written in place: what a run holds of it stays what it is
    assert own.vectors.any()


def test_a_batch_larger_than_the_queue():
    own = made(Queue(size=2), seen(STUDENT, STUDENT))
    keys, there = own.keys(STUDENT)
    torch.testing.assert_close(keys, STUDENT[-2:])
    assert there.all()
