"""What an objective is: a distillation loss by name (entry-point group `compressc.objectives`).

An objective is a function `(student, teacher, labels, temperature) -> loss`:

- student, teacher: answers `[n, v]`, as they are before a final softmax, sigmoid or norm; the
  student's carry the gradient.
- labels: class indices i64[n], -100 where a row has none, or None where there are no class labels.
- temperature: T > 0.
- loss: a scalar, the mean over rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from compressc.kernels.losses.softmax_kl import Reduction

_Function = TypeVar("_Function", bound="Objective")


class Objective(Protocol):
    """A distillation loss; see the head of this module."""

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float
    ) -> Tensor:
        """Mean loss of the rows."""


class Mixed(Protocol):
    """An objective and the cross entropy with labels in one pass over the logits."""

    def __call__(  # noqa: PLR0913 - as the kernel's
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        temperature: float,
        *,
        kl_share: float,
        reduction: Reduction,
    ) -> Tensor:
        """`kl_share` * objective + (1 - `kl_share`) * cross entropy, both means over all rows."""


def in_one_pass(mixed: Mixed) -> Callable[[_Function], _Function]:
    """Give an objective its form together with the labels: a decorator."""

    def mark(objective: _Function) -> _Function:
        vars(objective)["mixed"] = mixed
        return objective

    return mark


def mixed_form(objective: Objective) -> Mixed | None:
    """What `in_one_pass` gave the objective."""
    return getattr(objective, "mixed", None)
