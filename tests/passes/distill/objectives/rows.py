"""What an objective sees, made of rows."""

import math

import torch

from compressc.distillation import ByLabels, Readings, Seen


def seen(student, teacher, labels=None, **more):
    """Of rows `[n, v]`; labels are those of plain cross entropy."""
    by = None
    if labels is not None:
        by = ByLabels(lambda: torch.nn.functional.cross_entropy(student, labels), True)
    return Seen(Readings(student), Readings(teacher), labels, by, **more)


def random_rows(seed, rows=5, classes=4, scale=3.0):
    """Logits f64[rows, classes]."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def loss_and_gradient(objective, student, teacher, labels=None, **more):
    """The mean of an objective, and its gradient by the student's rows."""
    student = student.clone().requires_grad_()
    loss = objective.mean(seen(student, teacher, labels, **more))
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def hold(objective, by_definition, student, teacher, labels=None, **more):
    """Value and gradient against a definition that is plain torch in float64.

    `by_definition(student, teacher, labels)` loops over rows and classes; its gradient is taken by
    differences, so that nothing of torch's derivatives has a part in it.
    """
    want = by_definition(student, teacher, labels)
    value, gradient = loss_and_gradient(objective, student, teacher, labels, **more)
    torch.testing.assert_close(value.double(), torch.as_tensor(want).double(), rtol=1e-6, atol=1e-8)
    step, slopes = 1e-5, torch.zeros_like(student)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in student.shape)).tolist():
        sides = []
        for sign in (1, -1):
            moved = student.clone()
            moved[tuple(place)] += sign * step
            sides.append(float(by_definition(moved, teacher, labels)))
        slopes[tuple(place)] = (sides[0] - sides[1]) / (2 * step)
    torch.testing.assert_close(gradient.double(), slopes, rtol=1e-4, atol=1e-6)


def softmax(row):
    """Of a list of numbers, by its definition."""
    return [math.exp(x) / sum(math.exp(y) for y in row) for x in row]
