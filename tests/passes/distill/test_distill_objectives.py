"""The distillation losses against numbers worked out by hand or by their formula in float64."""

import math
from dataclasses import replace

import pytest
import torch
from compressc_distill.objectives import DKD_BETA, dkd, kd, mse_logits
from compressc_distill.teaching import Mixture
from distill_nets import mlp
from torch.nn import functional as F

from compressc.errors import CompresscError
from compressc.tasks import settle

#: A task of class scores with a label for each sample.
CLASSES = replace(settle(mlp()), labels=True)
UNIFORM = torch.zeros(1, 2)
THREE_TO_ONE = torch.tensor([[math.log(3.0), 0.0]])  # softmax (3/4, 1/4)


def test_kd_by_hand():
    # 3/4 ln(3/4 : 1/2) + 1/4 ln(1/4 : 1/2)
    want = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd(UNIFORM, THREE_TO_ONE, None, 1.0).item() == pytest.approx(want)


def test_kd_holds_the_factor_t_squared():
    # at T = 2 the teacher says sqrt(3) : 1
    p = math.sqrt(3) / (1 + math.sqrt(3))
    want = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert kd(UNIFORM, THREE_TO_ONE, None, 2.0).item() == pytest.approx(want)


def test_kd_gradient_is_the_difference_of_the_softmaxes():
    student = UNIFORM.clone().requires_grad_()
    kd(student, THREE_TO_ONE, None, 1.0).backward()
    assert student.grad.tolist()[0] == pytest.approx([0.5 - 0.75, 0.5 - 0.25])


def test_kd_of_one_class_is_refused():
    with pytest.raises(CompresscError, match="CC301"):
        kd(torch.zeros(2, 1), torch.ones(2, 1), None, 1.0)


def test_mse_logits_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])
    assert mse_logits(student, teacher, None, 4.0).item() == pytest.approx((1 + 9) / 2)


def random_logits(seed, rows=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def dkd_by_definition(student, teacher, target, temperature):
    """Eq. 1 to 7 of the paper, one row at a time."""
    total = 0.0
    for s, t, y in zip(student, teacher, target, strict=True):
        p, q = F.softmax(t / temperature, 0), F.softmax(s / temperature, 0)
        tckd = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        others = [i for i in range(len(s)) if i != y]
        nckd = sum(
            p[i] / (1 - p[y]) * ((p[i] / (1 - p[y])) / (q[i] / (1 - q[y]))).log() for i in others
        )
        total += temperature**2 * (tckd + DKD_BETA * nckd)
    return float(total / len(student))


def test_dkd_by_its_definition():
    student, teacher, labels = random_logits(0), random_logits(1), torch.tensor([0, 3, 1, 1, 2])
    want = dkd_by_definition(student, teacher, labels, 2.0)
    assert dkd(student, teacher, labels, 2.0).item() == pytest.approx(want, rel=1e-6)


def test_dkd_takes_the_teachers_answer_where_a_label_is_missing():
    student, teacher = random_logits(0), random_logits(1)
    answers = teacher.argmax(1)
    want = dkd_by_definition(student, teacher, answers, 1.0)
    assert dkd(student, teacher, None, 1.0).item() == pytest.approx(want, rel=1e-6)
    some = answers.clone()
    some[2:] = -100
    assert dkd(student, teacher, some, 1.0).item() == pytest.approx(want, rel=1e-6)


def test_dkd_of_two_classes_is_refused():
    with pytest.raises(CompresscError, match="CC301"):
        dkd(UNIFORM, THREE_TO_ONE, None, 1.0)


@pytest.mark.parametrize("objective", [kd, mse_logits, dkd])
def test_a_perfect_student_has_no_loss_and_no_gradient(objective):
    teacher = random_logits(3).float()
    student = teacher.clone().requires_grad_()
    loss = objective(student, teacher, None, 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert student.grad.abs().max().item() == pytest.approx(0, abs=1e-5)


def test_the_mixture_weighs_labels_and_teacher():
    # cross entropy of a uniform student over two classes is ln 2
    mixture = Mixture(kd, 0.25, 1.0, CLASSES)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    labels = torch.tensor([1])
    assert mixture.of(UNIFORM, THREE_TO_ONE, labels).item() == pytest.approx(
        0.25 * math.log(2) + 0.75 * kl
    )


def test_without_labels_the_mixture_is_the_teacher_alone():
    mixture = Mixture(kd, 0.25, 1.0, CLASSES)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert mixture.of(UNIFORM, THREE_TO_ONE, None).item() == pytest.approx(kl)
    nobody = torch.tensor([-100])
    assert mixture.of(UNIFORM, THREE_TO_ONE, nobody).item() == pytest.approx(0.75 * kl)
