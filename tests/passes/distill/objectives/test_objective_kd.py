"""kd: the teacher's distribution."""

import math

import pytest
import torch
from compressc_distill.objectives.ce import CrossEntropy
from compressc_distill.objectives.kd import Kd
from rows import hold, loss_and_gradient, random_rows, seen, softmax

from compressc.distillation import reduce
from compressc.errors import CompresscError
from compressc.testing import check_objective

UNIFORM = torch.zeros(1, 2)
THREE_TO_ONE = torch.tensor([[math.log(3.0), 0.0]])  # softmax (3/4, 1/4)


def test_by_hand():
    # 3/4 ln(3/4 : 1/2) + 1/4 ln(1/4 : 1/2)
    want = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert Kd(T=1).mean(seen(UNIFORM, THREE_TO_ONE)).item() == pytest.approx(want)


def test_it_holds_the_factor_t_squared():
    # at T = 2 the teacher says sqrt(3) : 1
    p = math.sqrt(3) / (1 + math.sqrt(3))
    want = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert Kd(T=2).mean(seen(UNIFORM, THREE_TO_ONE)).item() == pytest.approx(want)


def test_the_gradient_is_the_difference_of_the_softmaxes():
    _, gradient = loss_and_gradient(Kd(T=1), UNIFORM, THREE_TO_ONE)
    assert gradient.tolist()[0] == pytest.approx([0.5 - 0.75, 0.5 - 0.25])


def by_definition(temperature):
    def loss(student, teacher, labels):
        total = 0.0
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
            p, q = (softmax([x / temperature for x in row]) for row in (t, s))
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        return temperature**2 * total / len(student)

    return loss


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient_by_its_definition(temperature):
    hold(Kd(T=temperature), by_definition(temperature), random_rows(0), random_rows(1))


def test_the_mean_in_one_pass_is_that_of_the_rows():
    rows = seen(random_rows(0), random_rows(1))
    assert reduce(Kd()(rows)).item() == pytest.approx(Kd().mean(rows).item())
    assert Kd()(rows).values[0].shape == (5,)


def test_one_class_is_refused():
    with pytest.raises(CompresscError, match=r"CC301.*'kd' needs 2 classes or more \(got 1\)"):
        Kd().check(seen(torch.zeros(2, 1), torch.ones(2, 1)))
    Kd().check(seen(UNIFORM, THREE_TO_ONE))


def test_labels_and_teacher_in_one_pass():
    student, teacher, labels = random_rows(0), random_rows(1), torch.tensor([0, 3, 1, 1, 2])
    both = seen(student, teacher, labels)
    assert Kd().fuses(CrossEntropy())
    assert not Kd().fuses(Kd())
    got = Kd(T=2).fused(CrossEntropy(), 0.7, both)
    want = 0.7 * Kd(T=2).mean(both) + 0.3 * CrossEntropy().mean(both)
    assert got.item() == pytest.approx(want.item(), rel=1e-6)
    # where a row has no label, the means are over other rows
    labels[2] = -100
    assert Kd(T=2).fused(CrossEntropy(), 0.7, seen(student, teacher, labels)) is None
    assert Kd(T=2).fused(CrossEntropy(), 0.7, seen(student, teacher)) is None


def standardized(row):
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row))
    return [(x - mean) / deviation for x in row]


def test_standardized_logits_by_their_definition():
    def loss(student, teacher, labels):
        rows = ([standardized(row) for row in side.tolist()] for side in (student, teacher))
        sides = (torch.tensor(side, dtype=torch.float64) for side in rows)
        return by_definition(2.0)(*sides, labels)

    objective = Kd(T=2, standardize=True)
    hold(objective, loss, random_rows(0), random_rows(1))
    check_objective(objective)
    # the scale of the student's logits says nothing then
    rows = [seen(scale * random_rows(0), random_rows(1)) for scale in (1, 7)]
    assert objective.mean(rows[0]).item() == pytest.approx(objective.mean(rows[1]).item(), rel=1e-5)


def test_a_temperature_for_each_row_by_its_definition():
    def loss(student, teacher, labels):
        total = 0.0
        for s, t in zip(student, teacher, strict=True):
            temperature = max(1.0, float(t.max() - t.mean()))
            total += by_definition(temperature)(s[None], t[None], None)
        return total / len(student)

    hold(Kd(T="adaptive"), loss, random_rows(0), random_rows(1))
    check_objective(Kd(T="adaptive"))


@pytest.mark.parametrize("options", [{"T": "adaptive"}, {"standardize": True}])
def test_what_is_no_plain_kd_does_not_go_through_the_kernel_of_both(options):
    assert not Kd(**options).fuses(CrossEntropy())
