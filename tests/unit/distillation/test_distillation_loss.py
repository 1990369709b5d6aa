"""The sum of objectives: weights, terms by name, two of them in one kernel, means."""

import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressc.distillation import (
    OTHERS,
    Answers,
    Loss,
    Objective,
    Readings,
    Seen,
    Unreduced,
    look,
    parse_loss,
    parse_objective,
    reduce,
)
from compressc.ir import parse_graph
from compressc.tasks import settle

NET = """
graph g(%x: f32[b,4]) {
  %fc = linear(%x) {in=4, out=2} @fc.weight @fc.bias : f32[b,2]   # from fc
  return %fc
}
"""
TENSORS = {"fc.weight": torch.ones(2, 4), "fc.bias": torch.ones(2)}
#: A task of class scores with a label for each sample.
CLASSES = replace(settle(parse_graph(NET, TENSORS)), labels=True)
UNIFORM = torch.zeros(1, 2)
THREE_TO_ONE = torch.tensor([[math.log(3.0), 0.0]])  # softmax (3/4, 1/4)
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def seen(student, teacher, labels=None, task=CLASSES):
    return look(task, Answers((student,)), Answers((teacher,)), labels)


def rows(seed, count=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)


def sum_of(loss, of):
    """By the weights, as the engine does it."""
    return sum(loss.weights[name] * float(x.detach()) for name, x in loss.values(of).items())


def test_labels_and_teacher_are_weighed():
    loss = Loss(parse_loss("0.25*ce + 0.75*kd(T=1)"))
    # cross entropy of a uniform student over two classes is ln 2
    of = seen(UNIFORM, THREE_TO_ONE, torch.tensor([1]))
    assert loss.total(of).item() == pytest.approx(0.25 * math.log(2) + 0.75 * KL)
    assert sum_of(loss, of) == pytest.approx(loss.total(of).item())


@pytest.mark.parametrize("labels", [None, torch.tensor([-100])])
def test_without_a_label_the_teacher_has_its_weight_alone(labels):
    loss = Loss(parse_loss("0.25*ce + 0.75*kd(T=1)"))
    of = seen(UNIFORM, THREE_TO_ONE, labels)
    assert loss.total(of).item() == pytest.approx(0.75 * KL)
    assert sum_of(loss, of) == pytest.approx(0.75 * KL)


@pytest.mark.parametrize("missing", [False, True])
def test_terms_are_told_apart_whether_or_not_one_kernel_computes_them(missing):
    student, teacher = rows(0).requires_grad_(), rows(1)
    labels = torch.tensor([0, 3, 1, -100 if missing else 1, 2])
    p, q = (F.log_softmax(x / 2, 1) for x in (teacher, student))
    kl = 4 * (p.exp() * (p - q)).sum(1).mean()
    known = labels >= 0  # the mean of cross entropy is over rows with a label
    entropy = -F.log_softmax(student, 1)[known, labels[known]].mean()
    loss = Loss(parse_loss("0.6*ce + 1.4*kd(T=2)"))
    of = seen(student, teacher, labels)
    values = loss.values(of)
    assert set(values) == {"ce", "kd"} | loss.silent
    assert values["ce"].item() == pytest.approx(entropy.item(), rel=1e-5)
    assert values["kd"].item() == pytest.approx(kl.item(), rel=1e-5)
    want = 0.6 * entropy + 1.4 * kl
    assert sum_of(loss, of) == pytest.approx(want.item(), rel=1e-6)
    assert loss.total(of).item() == pytest.approx(want.item(), rel=1e-6)
    (slopes,) = torch.autograd.grad(want, student)
    total = sum(loss.weights[name] * x for name, x in values.items())
    torch.testing.assert_close(torch.autograd.grad(total, student)[0], slopes)


def test_one_kernel_computes_what_it_can(monkeypatch):
    calls = []
    kd = type(parse_objective("kd"))
    original = kd.fused

    def fused(self, other, share, seen):
        calls.append(share)
        return original(self, other, share, seen)

    monkeypatch.setattr(kd, "fused", fused)
    of = seen(rows(0), rows(1), torch.tensor([0, 3, 1, 1, 2]))
    Loss(parse_loss("0.3*ce + 0.7*kd")).total(of)
    assert calls == [pytest.approx(0.7)]
    for text in ("0.3*ce + 0.7*mse_logits", "kd", "ce"):
        Loss(parse_loss(text)).total(of)
    assert len(calls) == 1


def test_one_objective_twice_is_two_terms():
    loss = Loss(parse_loss("kd(T=1) + kd(T=4) + mse_logits"))
    assert list(loss.values(seen(rows(0), rows(1)))) == ["kd(T=1.0)", "kd(T=4.0)", "mse_logits"]


def test_epochs_are_compared_by_outputs_unless_there_is_nothing_else():
    assert [t.of.name for t in Loss(parse_loss("ce + hint")).outer.terms] == ["ce"]
    assert [t.of.name for t in Loss(parse_loss("hint")).outer.terms] == ["hint"]


class Projected(Objective):
    """Distance to a learned image of the student."""

    name: ClassVar[str] = "projected"

    def module(self, seen):
        return nn.Linear(seen.classes, seen.classes)

    def __call__(self, seen):
        return Unreduced("rows", [(seen.own(seen.student.rows) - seen.teacher.rows).pow(2)])


def test_an_objective_finds_the_module_that_it_made():
    seed = 3
    (part,) = parse_loss("0.5*kd")
    loss = Loss((replace(part, of=Projected()),)).fit(seen(UNIFORM, THREE_TO_ONE), seed)
    own = loss.own["projected"]
    want = 0.5 * F.mse_loss(own(UNIFORM), THREE_TO_ONE)
    assert loss.total(seen(UNIFORM, THREE_TO_ONE)).item() == pytest.approx(want.item())
    again = Loss(loss.terms).fit(seen(UNIFORM, THREE_TO_ONE), seed).own["projected"]
    assert torch.equal(own.weight, again.weight)
    before = torch.random.get_rng_state()
    Loss(loss.terms).fit(seen(UNIFORM, THREE_TO_ONE), seed)
    assert torch.equal(before, torch.random.get_rng_state())


def test_means_are_over_what_has_weight():
    values = torch.tensor([[1.0, 3.0], [5.0, float("inf")], [7.0, 9.0]])
    weight = torch.tensor([1.0, 0.0, 3.0])
    assert reduce(Unreduced("rows", [values], weights=[weight])).item() == (2 + 3 * 8) / 4
    assert reduce(Unreduced("rows", [values[[0, 2]]], [2.0])).item() == 5 / 2
    none = Unreduced("rows", [values], weights=[torch.zeros(3)])
    assert reduce(none).item() == 0
    # of several points each counts alike, whatever its size
    assert reduce(Unreduced("samples", [torch.ones(3), torch.full((50,), 3.0)])).item() == 2


def test_other_outputs_are_a_term_of_their_own():
    response = CLASSES.judged
    loss = Loss(parse_loss("kd(T=1)"), ((response, parse_objective("mse_logits")),))
    ours, theirs = Readings(UNIFORM, (rows(0),)), Readings(THREE_TO_ONE, (rows(1),))
    values = loss.values(Seen(ours, theirs))
    assert values[OTHERS].item() == pytest.approx(F.mse_loss(rows(0), rows(1)).item())
    assert loss.weights == {"kd": 1.0, OTHERS: 1.0}
