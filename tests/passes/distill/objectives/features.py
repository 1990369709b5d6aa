"""What an objective of inner values sees, and what its value and gradient must be."""

from dataclasses import replace

import torch

from compressc.distillation import Readings, Seen


def seen_of(students, teachers, **more):
    """Of feature points, `[b, ...]` each; without rows."""
    rows = torch.zeros(len(students[0]), 1)
    ours, theirs = Readings(rows, features=tuple(students)), Readings(rows)
    return Seen(ours, replace(theirs, features=tuple(teachers)), **more)


def random_feature(seed, *shape):
    """Numbers f64 around 1, so that channels have a mean, too."""
    generator = torch.Generator().manual_seed(seed)
    return 1 + torch.randn(*shape, generator=generator, dtype=torch.float64)


def hold(objective, by_definition, student, teacher, **more):
    """Value and gradient of one point against a definition of plain loops over numbers.

    Its gradient is taken by differences, so that nothing of torch's derivatives has a part in it.
    """
    moving = student.clone().requires_grad_()
    loss = objective.mean(seen_of([moving], [teacher], **more))
    (gradient,) = torch.autograd.grad(loss, moving)
    want = by_definition(student, teacher)
    torch.testing.assert_close(loss.detach(), torch.tensor(want).double(), rtol=1e-6, atol=1e-8)
    slopes = differences(lambda x: by_definition(x, teacher), student)
    torch.testing.assert_close(gradient, slopes, rtol=1e-4, atol=1e-6)


def differences(function, at, step=1e-5):
    """The gradient of a function of one tensor, number by number."""
    slopes = torch.zeros_like(at)
    for place in range(at.numel()):
        sides = []
        for sign in (1, -1):
            moved = at.clone()
            moved.view(-1)[place] += sign * step
            sides.append(float(function(moved)))
        slopes.view(-1)[place] = (sides[0] - sides[1]) / (2 * step)
    return slopes
