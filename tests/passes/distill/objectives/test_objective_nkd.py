"""nkd: the target's probability, and the others normalized."""

import math

import pytest
import torch
from compressc_distill.objectives.nkd import Nkd
from rows import hold, random_rows, seen, softmax

from compressc.errors import CompresscError

LABELS = torch.tensor([0, 3, 1, 1, 2])


def by_definition(gamma, t):
    def loss(student, teacher, labels):
        total = 0.0
        for s, u, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
            total -= softmax(u)[y] * math.log(softmax(s)[y])
            p, q = (softmax([x / t for i, x in enumerate(row) if i != y]) for row in (s, u))
            total -= gamma * t**2 * sum(b * math.log(a) for a, b in zip(p, q, strict=True))
        return total / len(student)

    return loss


@pytest.mark.parametrize(("gamma", "t"), [(1.5, 1.0), (0.5, 3.0)])
def test_value_and_gradient_by_its_definition(gamma, t):
    objective = Nkd(gamma=gamma, T=t)
    hold(objective, by_definition(gamma, t), random_rows(0), random_rows(1), LABELS)


def test_the_teachers_answer_stands_in_for_a_missing_label():
    student, teacher = random_rows(0), random_rows(1)
    want = by_definition(1.5, 1.0)(student, teacher, teacher.argmax(1))
    assert Nkd().mean(seen(student, teacher)).item() == pytest.approx(want, rel=1e-6)


def test_two_classes_are_refused():
    with pytest.raises(CompresscError, match="CC301"):
        Nkd().check(seen(torch.zeros(1, 2), torch.zeros(1, 2)))
