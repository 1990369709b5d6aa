"""dist: correlations within rows and within classes."""

import math

import pytest
import torch
from compressc_distill.objectives.dist import Dist
from rows import hold, loss_and_gradient, random_rows, seen, softmax


def correlation(a, b):
    means = sum(a) / len(a), sum(b) / len(b)
    a, b = [x - means[0] for x in a], [x - means[1] for x in b]
    inner = sum(x * y for x, y in zip(a, b, strict=True))
    return inner / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def by_definition(t, beta, gamma):
    """Row by row, and column by column."""

    def loss(student, teacher, labels):
        sides = (student.tolist(), teacher.tolist())
        p, q = ([softmax([x / t for x in row]) for row in side] for side in sides)
        inter = sum(1 - correlation(a, b) for a, b in zip(p, q, strict=True)) / len(p)
        columns = list(zip(zip(*p, strict=True), zip(*q, strict=True), strict=True))
        intra = sum(1 - correlation(a, b) for a, b in columns) / len(columns)
        return t**2 * (beta * inter + gamma * intra)

    return loss


@pytest.mark.parametrize("options", [(1.0, 1.0, 1.0), (4.0, 2.0, 0.5), (1.0, 1.0, 0.0)])
def test_value_and_gradient_by_its_definition(options):
    t, beta, gamma = options
    objective = Dist(T=t, beta=beta, gamma=gamma)
    hold(objective, by_definition(*options), random_rows(0), random_rows(1))


def test_correlations_are_subtracted():
    # a student that orders all classes the other way round is worse than one that knows nothing
    teacher = random_rows(1)
    opposite, _ = loss_and_gradient(Dist(T=1), -teacher, teacher)
    nothing, _ = loss_and_gradient(Dist(T=1), 1e-3 * random_rows(0), teacher)
    same, _ = loss_and_gradient(Dist(T=1), teacher, teacher)
    assert opposite > nothing > same
    assert same.item() == pytest.approx(0, abs=1e-9)


def test_one_sample_has_no_correlation_over_the_batch():
    one = random_rows(0, 1), random_rows(1, 1)
    value, gradient = loss_and_gradient(Dist(T=1), *one)
    want, _ = loss_and_gradient(Dist(T=1, gamma=0), *one)
    assert value.item() == want.item()
    assert torch.isfinite(gradient).all()


def test_a_class_that_nobody_ever_gives_does_no_harm():
    student, teacher = random_rows(0), random_rows(1)
    teacher[:, 2] = -1000.0
    value, gradient = loss_and_gradient(Dist(T=1), student, teacher)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert Dist(T=1).mean(seen(teacher, teacher)).isfinite()
