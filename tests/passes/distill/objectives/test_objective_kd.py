"""The distillation losses against numbers worked out by hand or by their formula in float64."""

import math
from dataclasses import replace

import pytest
import torch
from compressc_distill.distill import objective_of
from compressc_distill.objectives import (
    DKD_BETA,
    bernoulli,
    cosine,
    dkd,
    kd,
    mse_logits,
    scaled_mse,
    vectors,
)
from distill_nets import mlp
from torch.nn import functional as F

from compressc.distillation import Mixture
from compressc.errors import CompresscError
from compressc.ir import parse_graph
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


@pytest.mark.parametrize("missing", [False, True])
def test_labels_and_teacher_together_by_their_formulas(missing):
    student, teacher = random_logits(0), random_logits(1)
    labels = torch.tensor([0, 3, 1, -100 if missing else 1, 2])
    p, q = (F.log_softmax(x / 2, 1) for x in (teacher, student))
    kl = 4 * (p.exp() * (p - q)).sum(1).mean()
    known = labels >= 0  # the mean of cross entropy is over rows with a label
    entropy = -F.log_softmax(student, 1)[known, labels[known]].mean()
    got = Mixture(kd, 0.3, 2.0, CLASSES).of(student, teacher, labels)
    assert got.item() == pytest.approx(float(0.3 * entropy + 0.7 * kl), rel=1e-6)


def test_labels_and_teacher_go_through_one_kernel(monkeypatch):
    calls = []

    def fused(*args, **options):
        calls.append(options)
        return args[0].sum()

    monkeypatch.setattr(kd, "mixed", fused)
    labels = torch.tensor([0, 3, 1, 1, 2])
    Mixture(kd, 0.3, 2.0, CLASSES).of(random_logits(0), random_logits(1), labels)
    assert calls == [{"kl_share": pytest.approx(0.7), "reduction": "mean"}]
    Mixture(mse_logits, 0.3, 2.0, CLASSES).of(random_logits(0), random_logits(1), labels)
    Mixture(kd, 0.3, 2.0, CLASSES).of(random_logits(0), random_logits(1), None)
    assert len(calls) == 1


def test_bernoulli_by_hand():
    # the teacher says yes with 3/4, then 1/2; the student 1/2 both times
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    want = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert bernoulli(torch.zeros(1, 2), teacher, None, 1.0).item() == pytest.approx(want)


def test_cosine_and_scaled_mse_are_1_for_a_constant_guess_and_know_no_unit():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    guess = teacher.mean(0, keepdim=True).expand(2, 2)
    for scale in (1.0, 1000.0):
        assert scaled_mse(scale * guess, scale * teacher, None, 1.0).item() == pytest.approx(1)
        assert cosine(scale * guess, teacher, None, 1.0).item() == pytest.approx(1, rel=1e-5)
    # a right angle is 1 off, the constant guess 1 - cos 45
    crossed = cosine(teacher.flip(0), teacher, None, 1.0).item()
    assert crossed == pytest.approx(1 / (1 - math.sqrt(0.5)), rel=1e-5)
    both = vectors(guess, teacher, None, 1.0).item()
    assert both == pytest.approx(2, rel=1e-5)


NET = """
graph g(%x: f32[b,4]) {{
  %fc = linear(%x) {{in=4, out=3}} @fc.weight @fc.bias : f32[b,3]   # from fc
  %end = {end}
  return %end
}}
"""


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        ("aten.softmax.int(%fc, 1) : f32[b,3]   # from end", "kd"),
        ("sigmoid(%fc) : f32[b,3]   # from end", "bernoulli"),
        ("aten.sum.dim_IntList(%fc, [1]) : f32[b]   # from end", "scaled_mse"),
        ("relu(%fc) : f32[b,3]   # from end", "vectors"),
    ],
)
def test_the_objective_goes_by_what_is_put_out(end, wanted):
    tensors = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
    task = settle(parse_graph(NET.format(end=end), tensors))
    assert objective_of(task.judged) == wanted
    ended = task.judged.ending in ("softmax", "sigmoid")
    graph = parse_graph(NET.format(end=end), tensors)
    assert task.value_in(graph) == ("fc" if ended else "end")
