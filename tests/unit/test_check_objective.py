"""`check_objective` finds the mistakes that public implementations have made."""

import re
from typing import ClassVar

import pytest
import torch
from compressc_distill.objectives.kd import Kd
from torch.nn import functional as F

from compressc.distillation import Objective, Unreduced, widened
from compressc.testing import check_objective


class Right(Objective):
    """Squared distance."""

    name: ClassVar[str] = "right"

    def __call__(self, seen):
        off = widened(seen.student.rows) - widened(seen.teacher.rows)
        return Unreduced("rows", [off.pow(2)])


class Summed(Right):
    """The weight depends on the size of the batch."""

    def __call__(self, seen):
        (values,) = super().__call__(seen).values
        return Unreduced("rows", [values * len(values)])


class Added(Right):
    """A correlation that is added, not 1 minus it: pushes apart."""

    def __call__(self, seen):
        sides = (widened(x) - widened(x).mean(1, True) for x in rows_of(seen))
        return Unreduced("rows", [F.cosine_similarity(*sides)])


class Detached(Right):
    """The student has no gradient."""

    def __call__(self, seen):
        student, teacher = rows_of(seen)
        return Unreduced("rows", [(widened(student).detach() - teacher).pow(2) + 0 * student])


class Dropped(Right):
    """The teacher's answers get lost on the way."""

    def __call__(self, seen):
        student, _ = rows_of(seen)
        return Unreduced("rows", [widened(student).pow(2)])


class Merged(Right):
    """The logarithm of a softmax that is merged first: infinite where the teacher is sure."""

    shift_free: ClassVar[bool] = True

    def __call__(self, seen):
        q, p = (widened(x).softmax(1) for x in rows_of(seen))
        return Unreduced("rows", [(p * (p.log() - q.log())).sum(1)])


class FirstHalf(Right):
    """Only some samples are learned from."""

    def __call__(self, seen):
        (values,) = super().__call__(seen).values
        mask = (torch.arange(len(values)) < len(values) // 2).to(values.dtype)
        return Unreduced("rows", [values * mask[:, None]])


class Writes(Right):
    """What is read is written to."""

    def __call__(self, seen):
        seen.teacher.rows.mul_(1.5)
        return super().__call__(seen)


class Cancels(Right):
    """Digits get lost in a large sum."""

    def __call__(self, seen):
        student, teacher = (widened(x) + 1e6 for x in rows_of(seen))
        return Unreduced("rows", [(student - teacher).pow(2)])


class Liar(Right):
    """Says of itself what is not so."""

    shift_free: ClassVar[bool] = True


class Excused(Right):
    """An exemption without need."""

    exempt: ClassVar[dict[str, str]] = {"repetition": "for no reason"}


class Misplaced(Right):
    """Values that belong to something else."""

    def __call__(self, seen):
        (values,) = super().__call__(seen).values
        return Unreduced("pairs", [values])


def rows_of(seen):
    return seen.student.rows, seen.teacher.rows


def test_what_is_right_passes():
    check_objective(Right())


@pytest.mark.parametrize(
    ("objective", "fault"),
    [
        (Summed(), "repetition"),
        (Added(), "descent"),
        (Detached(), "gradient"),
        (Dropped(), "minimum"),
        (Merged(), "extremes"),
        (FirstHalf(), "gradient: no gradient for some sample of rows"),
        (Writes(), "gradient: what is read is written to"),
        (Cancels(), "precision"),
        (Liar(), "shift: shift_free is True"),
        (Excused(), "repetition: it holds, but is said not to: for no reason"),
        (Misplaced(), "reduction"),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Objective) else "",
)
def test_a_mistake_is_named(objective, fault):
    with pytest.raises(AssertionError, match=rf"(?m)^{re.escape(fault)}"):
        check_objective(objective)


def test_a_formula_without_its_factor_is_found_by_the_definition():
    def kl(student, teacher, labels):
        p, q = ((side.rows / 4).log_softmax(1) for side in (teacher, student))
        return float((p.exp() * (p - q)).sum(1).mean())

    check_objective(Kd(T=4), lambda *seen: 16 * kl(*seen))
    with pytest.raises(AssertionError, match="definition"):
        check_objective(Kd(T=4), kl)
