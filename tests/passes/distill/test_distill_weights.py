"""Weights of terms by their gradients, and terms that do nothing."""

import re
from contextlib import ExitStack

import pytest
import torch
from compressc_distill.distill import Distill
from compressc_distill.objectives.hint import Hint
from distill_nets import KEPT
from torch.nn import functional as F

from compressc.distillation import Unreduced, hold_out
from compressc.distillation.influence import balanced, gradient_norms, without_effect
from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.pipeline import Context, parse_pass

LOSS = "ce + 0.5*kd(T=2) + 3*hint"


def teaching_of(teacher, student, data, text=LOSS):
    parts = hold_out(data.train, 0.2, 0)
    pass_ = Distill(loss=text)
    return pass_._teachings(student, Context(teacher, data), parts, 0, ExitStack())[0]


def moved(student):
    """A student whose every term has a gradient."""
    with torch.no_grad():
        student["fc1"].layer.bias.add_(0.3)
        student["fc2"].layer.weight.add_(0.1)
    return student


def norms_by_hand(teacher, student, batch):
    (x,), labels = batch.samples.inputs, batch.samples.labels
    net = lower(student, also=["act"])
    parameters = [p.requires_grad_() for p in net.parameters()]
    with torch.no_grad():
        wanted, (features,) = lower(teacher, also=["act"])(x)
    got, (ours,) = net(x)
    features = features[:, list(KEPT)]
    q, p = (y.div(2).log_softmax(1) for y in (wanted, got))
    terms = {
        "ce": F.cross_entropy(got, labels),
        "kd": 4 * (q.exp() * (q - p)).sum(1).mean(),
        "hint": (ours - features).pow(2).mean() / features.var(correction=0),
    }
    return {
        name: torch.cat(
            [
                slope.flatten()
                for slope in torch.autograd.grad(
                    term, parameters, retain_graph=True, materialize_grads=True
                )
            ]
        )
        .norm()
        .item()
        for name, term in terms.items()
    }


def test_norms_are_those_of_each_term_by_itself(teacher, student, data):
    taught = teaching_of(teacher, moved(student), data)
    (batch,) = [next(taught.batches(40).epoch(0, 1))]
    flags = [p.requires_grad for p in taught.student.module.parameters()]
    got = gradient_norms(taught, [batch])
    assert [p.requires_grad for p in taught.student.module.parameters()] == flags
    assert got == pytest.approx(norms_by_hand(teacher, student, batch), rel=1e-4)


def test_balanced_terms_pull_as_their_weights_say(teacher, student, data):
    taught = teaching_of(teacher, moved(student), data)
    batches = list(taught.batches(40).epoch(0, 1))[:4]
    norms = gradient_norms(taught, batches)
    loss = balanced(taught.loss, norms)
    assert loss.weight_of("ce") == 1.0
    pulls = {name: loss.weight_of(name) * norms[name] for name in loss.names}
    want = {"ce": norms["ce"], "kd": 0.5 * norms["ce"], "hint": 3 * norms["ce"]}
    assert pulls == pytest.approx(want)


def test_weights_auto_is_said_and_repeats(teacher, student, data):
    text = f"distill(epochs=2, weights=auto, loss='{LOSS}')"
    made = []
    for _ in range(2):
        copied, ctx = moved(student.copy()), Context(teacher, data)
        parse_pass(text).run(copied, ctx)
        (note,) = [t for _, t in ctx.notes if t.startswith("weights by the gradients")]
        made.append((note, {n: t.detach() for n, t in copied.tensors().items()}))
    assert made[0][0] == made[1][0]
    assert all(torch.equal(t, made[1][1][n]) for n, t in made[0][1].items())
    assert re.search(r"start: 1\*ce \+ [\d.e-]+\*kd \+ [\d.e-]+\*hint \(norms: ce ", made[0][0])
    plain, ctx = moved(student.copy()), Context(teacher, data)
    parse_pass(text.replace("weights=auto, ", "")).run(plain, ctx)
    assert not any("weights by" in t for _, t in ctx.notes)
    assert not all(torch.equal(t, made[0][1][n]) for n, t in plain.tensors().items())


def test_a_term_without_effect_is_an_error(teacher, student, data, monkeypatch):
    def lost(self, seen):
        rows = seen.student.features[0].detach()
        return Unreduced("samples", [(rows - seen.teacher.features[0]).pow(2)])

    monkeypatch.setattr(Hint, "__call__", lost)
    with pytest.raises(CompresscError, match=r"CC506.*no gradient from hint.* at distill"):
        Distill(epochs=1, loss="kd + hint").run(student, Context(teacher, data))


def test_a_term_that_ignores_the_teacher_where_both_agree_is_an_error(teacher, data, monkeypatch):
    def lost(self, seen):
        return Unreduced("samples", [0 * seen.student.features[0]])

    monkeypatch.setattr(Hint, "__call__", lost)
    with pytest.raises(CompresscError, match="CC506"):
        Distill(epochs=1, loss="kd + hint").run(teacher.copy(), Context(teacher, data))


def test_a_student_that_is_the_teacher_has_terms_at_rest_that_are_none(teacher, data):
    taught = teaching_of(teacher, teacher.copy(), data, "kd + hint")
    batches = [next(taught.batches(40).epoch(0, 1))]
    assert max(gradient_norms(taught, batches).values()) < 1e-6
    assert without_effect(taught, batches) == []
