"""dkd: the target class and the others apart."""

import math

import pytest
import torch
from compressc_distill.objectives.dkd import Dkd
from rows import hold, random_rows, seen, softmax

from compressc.errors import CompresscError

LABELS = torch.tensor([0, 3, 1, 1, 2])


def by_definition(temperature, beta):
    """Eq. 1 to 7 of the paper, one row at a time."""

    def loss(student, teacher, labels):
        total = 0.0
        for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
            p, q = (softmax([x / temperature for x in row]) for row in (t, s))
            total += p[y] * math.log(p[y] / q[y])
            total += (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
            for i in range(len(s)):
                if i != y:
                    a, b = p[i] / (1 - p[y]), q[i] / (1 - q[y])
                    total += beta * a * math.log(a / b)
        return temperature**2 * total / len(student)

    return loss


@pytest.mark.parametrize(("temperature", "beta"), [(2.0, 8.0), (1.0, 0.5)])
def test_value_and_gradient_by_its_definition(temperature, beta):
    objective = Dkd(T=temperature, beta=beta)
    hold(objective, by_definition(temperature, beta), random_rows(0), random_rows(1), LABELS)


def test_the_teachers_answer_stands_in_for_a_missing_label():
    student, teacher = random_rows(0), random_rows(1)
    answers = teacher.argmax(1)
    want = by_definition(1.0, 8.0)(student, teacher, answers)
    assert Dkd(T=1).mean(seen(student, teacher)).item() == pytest.approx(want, rel=1e-6)
    some = answers.clone()
    some[2:] = -100
    assert Dkd(T=1).mean(seen(student, teacher, some)).item() == pytest.approx(want, rel=1e-6)


def test_two_classes_are_refused():
    with pytest.raises(CompresscError, match="CC301"):
        Dkd().check(seen(torch.zeros(1, 2), torch.zeros(1, 2)))
    Dkd().check(seen(torch.zeros(1, 3), torch.zeros(1, 3)))


def test_it_rises_over_the_warm_up():
    student, teacher = random_rows(0), random_rows(1)
    whole = Dkd().mean(seen(student, teacher, LABELS)).item()
    for progress, share in ((0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.9, 1.0)):
        rows = seen(student, teacher, LABELS, progress=progress)
        assert Dkd(warmup=0.1).mean(rows).item() == pytest.approx(share * whole)


def test_a_teacher_that_is_sure_in_half_precision_has_a_finite_loss():
    # the log of a softmax that is merged first is infinite here
    teacher = torch.tensor([[80.0, -80.0, -80.0]]).bfloat16()
    student = -teacher.clone().requires_grad_()
    loss = Dkd(T=1).mean(seen(student, teacher, torch.tensor([0])))
    loss.backward()
    assert loss.item() == pytest.approx(160, rel=1e-2)  # log odds of 80 against -80
