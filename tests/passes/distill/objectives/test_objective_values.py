"""Objectives of plain numbers: mse_logits, scaled_mse, bernoulli, cosine, vectors."""

import math

import pytest
import torch
from compressc_distill.objectives.bernoulli import Bernoulli
from compressc_distill.objectives.cosine import Cosine
from compressc_distill.objectives.mse_logits import MseLogits
from compressc_distill.objectives.scaled_mse import ScaledMse
from compressc_distill.objectives.vectors import Vectors
from rows import hold, random_rows, seen

from compressc.distillation import reduce


def test_mse_logits_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])
    assert MseLogits().mean(seen(student, teacher)).item() == pytest.approx((1 + 9) / 2)


def test_bernoulli_by_hand():
    # the teacher says yes with 3/4, then 1/2; the student 1/2 both times
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    want = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    rows = seen(torch.zeros(1, 2), teacher)
    assert Bernoulli(T=1).mean(rows).item() == pytest.approx(want)
    assert reduce(Bernoulli(T=1)(rows)).item() == pytest.approx(want)


def bernoulli_by_definition(student, teacher, labels):
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        p, q = (1 / (1 + math.exp(-x / 2)) for x in (t, s))
        total += 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return total / student.numel()


def scaled_by_definition(student, teacher, labels):
    means = teacher.mean(0)
    variance = sum(float((row - means).pow(2).mean()) for row in teacher) / len(teacher)
    errors = [float((s - t).pow(2).mean()) for s, t in zip(student, teacher, strict=True)]
    return sum(errors) / len(errors) / variance


def cosine_by_definition(student, teacher, labels):
    def angle(a, b):
        return 1 - float(a @ b) / float(a.norm() * b.norm())

    mean = sum(row / row.norm() for row in teacher)
    missed = sum(angle(s, t) for s, t in zip(student, teacher, strict=True))
    return missed / sum(angle(mean, t) for t in teacher)


def vectors_by_definition(*rows):
    return cosine_by_definition(*rows) + scaled_by_definition(*rows)


@pytest.mark.parametrize(
    ("objective", "definition"),
    [
        (Bernoulli(T=2), bernoulli_by_definition),
        (ScaledMse(), scaled_by_definition),
        (Cosine(), cosine_by_definition),
        (Vectors(), vectors_by_definition),
    ],
)
def test_value_and_gradient_by_definition(objective, definition):
    hold(objective, definition, random_rows(0), random_rows(1))


def test_a_constant_guess_costs_1_whatever_the_unit():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    guess = teacher.mean(0, keepdim=True).expand(2, 2)
    for scale in (1.0, 1000.0):
        assert ScaledMse().mean(seen(scale * guess, scale * teacher)).item() == pytest.approx(1)
        loss = Cosine().mean(seen(scale * guess, teacher)).item()
        assert loss == pytest.approx(1, rel=1e-5)
    # a right angle is 1 off, the constant guess 1 - cos 45
    crossed = Cosine().mean(seen(teacher.flip(0), teacher)).item()
    assert crossed == pytest.approx(1 / (1 - math.sqrt(0.5)), rel=1e-5)
    assert Vectors().mean(seen(guess, teacher)).item() == pytest.approx(2, rel=1e-5)
