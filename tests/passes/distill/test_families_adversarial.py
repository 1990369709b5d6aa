"""A discriminator of answers: its loss and balance by plain numbers, and a training."""

import math

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.adversarial import Adversarial, AdversarialVectors
from distill_nets import Start

from compressc.distillation import Readings, Seen
from compressc.errors import CompresscError
from compressc.pipeline import Context, parse_passes
from compressc.testing import check_objective, check_resumes


def rows(seed, width=3, count=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def seen(student, teacher, **more):
    return Seen(Readings(student), Readings(teacher), **more)


def judged(own, x):
    """The discriminator and its gradient for one row, by loops over its weights."""
    values, slopes = x, [[float(i == j) for j in range(len(x))] for i in range(len(x))]
    layers = [layer for layer in own.layers if isinstance(layer, torch.nn.Linear)]
    for place, layer in enumerate(layers):
        w, b = layer.weight.tolist(), layer.bias.tolist()
        values = [
            sum(a * v for a, v in zip(r, values, strict=True)) + c
            for r, c in zip(w, b, strict=True)
        ]
        slopes = [
            [sum(row[k] * slopes[k][j] for k in range(len(row))) for j in range(len(x))]
            for row in w
        ]
        if place < len(layers) - 1:
            for i, value in enumerate(values):
                if value <= 0:
                    values[i], slopes[i] = 0.2 * value, [0.2 * s for s in slopes[i]]
    return values[0], slopes[0]


def log1p_exp(x):
    return math.log1p(math.exp(x))


def centred(row):
    return [x - sum(row) / len(row) for x in row]


@pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.95])
def test_both_losses_by_plain_numbers(accuracy):
    torch.manual_seed(0)
    student, teacher = rows(0), rows(1) * 3
    objective = Adversarial(penalty=0.7, most=0.8, hidden=5)
    own = objective.module(seen(student, teacher)).double()
    own.accuracy.fill_(accuracy)
    got = objective.mean(seen(student, teacher, own=own))
    ours, theirs = ([centred(row) for row in side.tolist()] for side in (student, teacher))
    every = [x for row in theirs for x in row]
    middle = sum(every) / len(every)
    scale = math.sqrt(sum((x - middle) ** 2 for x in every) / len(every))
    want = told = right = 0.0
    for mine, its in zip(ours, theirs, strict=True):
        fake, _ = judged(own, [x / scale for x in mine])
        real, slope = judged(own, [x / scale for x in its])
        right += ((real > 0) + (fake <= 0)) / 8
        want += log1p_exp(-fake) / 4
        told += (log1p_exp(-real) + log1p_exp(fake) + 0.35 * sum(s * s for s in slope)) / 4
    after = 0.9 * accuracy + 0.1 * right
    share = min(max((0.8 - after) / 0.3, 0.0), 1.0)
    assert float(own.accuracy) == pytest.approx(after, rel=1e-6)
    assert float(own.learned) == pytest.approx(share, rel=1e-6)
    assert got.item() == pytest.approx(want + share * told, rel=1e-6)


def test_no_gradient_of_either_reaches_the_other():
    torch.manual_seed(0)
    student, teacher = rows(0).requires_grad_(), rows(1).requires_grad_()
    objective = Adversarial(penalty=0.0, hidden=5)
    own = objective.module(seen(student, teacher)).double()
    slopes = torch.autograd.grad(
        objective.mean(seen(student, teacher, own=own)),
        [student, teacher, *own.parameters()],
        allow_unused=True,
    )
    assert slopes[1] is None or not slopes[1].any()
    ours, theirs = ((x - x.mean(1, keepdim=True)).detach() for x in (student, teacher))
    scale, share = theirs.std(unbiased=False), float(own.learned)
    leaf = ours.clone().requires_grad_()
    fooled = -torch.nn.functional.logsigmoid(own(leaf / scale)).mean()
    (want,) = torch.autograd.grad(fooled, leaf)
    torch.testing.assert_close(slopes[0], want - want.mean(1, keepdim=True))
    told = -torch.nn.functional.logsigmoid(own(theirs / scale)).mean()
    told = told - torch.nn.functional.logsigmoid(-own(ours / scale)).mean()
    for got, wanted in zip(slopes[2:], torch.autograd.grad(told, own.parameters()), strict=True):
        torch.testing.assert_close(got, share * wanted)


@pytest.mark.parametrize("objective", [Adversarial(), AdversarialVectors(penalty=3.0)])
def test_what_holds_of_every_objective(objective):
    check_objective(objective)


def test_vectors_of_another_width_are_mapped_and_epochs_are_not_compared_by_it():
    objective = AdversarialVectors(hidden=4)
    of = Seen(Readings(rows(0), vectors=rows(0)), Readings(rows(1), vectors=rows(1, 5)))
    own = objective.module(of).double()
    assert own.alike.weight.shape == (5, 3)
    assert objective(Seen(of.student, of.teacher, own=own)).of == "samples"
    with torch.no_grad():  # batch norms are tried so, before the first step
        assert float(objective.mean(Seen(of.student, of.teacher, own=own))) == 0.0
    own.eval()
    assert float(objective.mean(Seen(of.student, of.teacher, own=own))) == 0.0
    assert float(own.steps) == 1.0


def test_a_spread_comes_near_the_teachers_and_the_discriminator_goes_on_learning():
    torch.manual_seed(0)
    objective = Adversarial(hidden=16)
    teacher, start = rows(1, 5, 64).float(), rows(2, 5, 64).float() * 5
    student = torch.nn.Parameter(start.clone())
    own = objective.module(seen(student, teacher))
    groups = [{"params": own.parameters(), "lr": 0.01}, {"params": [student], "lr": 0.03}]
    optimizer, found = torch.optim.Adam(groups), []
    for _ in range(200):
        optimizer.zero_grad()
        objective.mean(seen(student, teacher, own=own)).backward()
        optimizer.step()
        found.append(float(own.accuracy))
    assert float(student.detach().std()) < 0.6 * float(start.std())
    assert max(found) > 0.8  # they are told apart at first
    assert 0.5 < found[-1] < 0.75  # and hardly in the end
    assert 0.2 < float(own.learned / own.steps) < 0.7


LOSS = "loss='ce + 0.1*adversarial + 0.1*adversarial_vectors(hidden=8)'"


def test_a_student_learns_and_the_report_has_the_accuracy(teacher, student, data):
    ctx = Context(teacher, data)
    (distill,) = parse_passes(f"distill({LOSS},epochs=4,lr=0.03)")
    distill.run(student, ctx)
    said = [text for _, text in ctx.notes]
    assert sum(text.startswith("discriminator of adversarial") for text in said) == 2
    assert ctx.records["training"]["best"][1] > 0.8


def test_killed_and_begun_again_it_is_the_same_run(teacher, data, tmp_path):
    passes = [Start(), *parse_passes(f"distill({LOSS},epochs=3,batch_size=64)")]
    check_resumes(passes, teacher, data, tmp_path, dies_at=9)


def test_what_cannot_be_told_apart_is_refused():
    one = seen(rows(0, 1), rows(1, 1))
    with pytest.raises(CompresscError, match=r"CC301.*'adversarial' needs 2 classes or more"):
        Adversarial().check(one)
    with pytest.raises(CompresscError, match=r"CC301.*'adversarial_vectors' needs one vector"):
        AdversarialVectors().check(one)
    for text in ("adversarial(most=0.5)", "adversarial(penalty=-1)", "adversarial(hidden=0)"):
        with pytest.raises(CompresscError, match="CC102"):
            Distill(loss=text)
