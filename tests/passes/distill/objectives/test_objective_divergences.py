"""Divergences of distributions: reverse_kl, jsd, skew_kl, ttm, wttm, and T=auto."""

import math

import pytest
import torch
from compressc_distill.objectives.jsd import Jsd
from compressc_distill.objectives.kd import Kd
from compressc_distill.objectives.reverse_kl import ReverseKl
from compressc_distill.objectives.skew_kl import SkewKl
from compressc_distill.objectives.temperature import number_of
from compressc_distill.objectives.ttm import Ttm
from compressc_distill.objectives.wttm import Wttm
from rows import hold, loss_and_gradient, random_rows, seen, softmax

from compressc.testing import check_objective


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mixture(first, second, share):
    return [share * a + (1 - share) * b for a, b in zip(first, second, strict=True)]


def over_rows(of_row, t=1.0):
    """The mean of `of_row(student's probabilities, teacher's)`, times t^2."""

    def loss(student, teacher, labels):
        pairs = zip(student.tolist(), teacher.tolist(), strict=True)
        rows = ([softmax([x / t for x in row]) for row in pair] for pair in pairs)
        return t**2 * sum(of_row(p, q) for p, q in rows) / len(student)

    return loss


def jsd(beta):
    def of_row(p, q):
        m = mixture(q, p, beta)
        return beta * kl(q, m) + (1 - beta) * kl(p, m)

    return of_row


CASES = [
    (ReverseKl(T=2), over_rows(kl, 2.0)),
    (Jsd(T=2), over_rows(jsd(0.5), 2.0)),
    (Jsd(T=2, beta=0.2), over_rows(jsd(0.2), 2.0)),
    (SkewKl(T=2), over_rows(lambda p, q: kl(q, mixture(q, p, 0.1)), 2.0)),
    (SkewKl(T=1, skew=0.4, reverse=True), over_rows(lambda p, q: kl(p, mixture(p, q, 0.4)))),
    (SkewKl(T=1, skew=0), over_rows(lambda p, q: kl(q, p))),
]


@pytest.mark.parametrize(("objective", "definition"), CASES, ids=lambda x: getattr(x, "text", ""))
def test_value_and_gradient_by_definition(objective, definition):
    # the gradient by differences passes through the student inside the mixture, as it must
    hold(objective, definition, random_rows(0), random_rows(1))


@pytest.mark.parametrize("objective", [Jsd(beta=0.2), SkewKl(reverse=True), SkewKl(skew=0.5)])
def test_options_conform(objective):
    check_objective(objective)


def transformed(gamma, weighted):
    def loss(student, teacher, labels):
        total = 0.0
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
            power = [x**gamma for x in softmax(t)]
            q = [x / sum(power) for x in power]
            total += kl(q, softmax(s)) * (sum(power) if weighted else 1)
        return total / len(student)

    return loss


@pytest.mark.parametrize(("cls", "weighted"), [(Ttm, False), (Wttm, True)])
@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_transformed_teachers_by_definition(cls, weighted, gamma):
    hold(cls(gamma=gamma), transformed(gamma, weighted), random_rows(0), random_rows(1))


def test_the_minimum_of_ttm_is_the_teacher_at_another_temperature():
    teacher = random_rows(1)
    value, gradient = loss_and_gradient(Ttm(gamma=0.2), 0.2 * teacher, teacher)
    assert value.item() == pytest.approx(0, abs=1e-7)
    assert gradient.abs().max().item() < 1e-7


def test_a_sure_teacher_has_weight_1_in_wttm():
    teacher = torch.tensor([[60.0, 0.0, 0.0]])
    rows = seen(torch.zeros(1, 3), teacher)
    ratio = Wttm(gamma=0.5).mean(rows) / Ttm(gamma=0.5).mean(rows)
    assert ratio.item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("classes", "want"), [(2, 4.0), (499, 4.0), (500, 1.0), (32000, 1.0)])
def test_the_temperature_goes_by_the_number_of_classes(classes, want):
    assert number_of("auto", classes) == want
    assert number_of(3.0, classes) == 3.0
    student, teacher = random_rows(0, 2, classes), random_rows(1, 2, classes)
    for auto, given in ((Kd(), Kd(T=want)), (ReverseKl(), ReverseKl(T=want))):
        values = [objective.mean(seen(student, teacher)).item() for objective in (auto, given)]
        assert values[0] == values[1]
