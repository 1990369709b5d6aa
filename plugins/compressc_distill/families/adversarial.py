"""`adversarial`: a discriminator tells the student's answers from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from compressc.distillation import Objective, Reading, Seen, Unreduced, widened

_LEARNED = "what the discriminator has learned so far is in the way"
#: Share of the old mean accuracy that stays in a step.
_STAYS = 0.9


class Adversarial(Objective):
    """A discriminator learns to tell the teacher's answers from the student's, who learns to pass.

    It sees the class scores of a sample, without the sample, so that it teaches how answers are
    spread and not which one is right: add it to `ce` or `kd`. Both learn in the same step; no
    gradient of either reaches the other's loss. A gradient penalty at the teacher's answers keeps
    the discriminator smooth, and it learns the less the more often it is right, not at all from
    `most` on, so that the student has something to follow. Its weights and its mean accuracy are in
    the checkpoint; the report has the accuracy. Epochs are compared by the other terms: what it
    says of two epochs is not held against the same discriminator.
    """

    name: ClassVar[str] = "adversarial"
    reads: ClassVar[frozenset[Reading]] = frozenset({"rows"})
    formula: ClassVar[str] = (
        "mean_i -log D'(s_i) + g * (-log D(t_i) - log(1 - D(s'_i)) + penalty/2 * |grad D(t_i)|^2), "
        "g = clamp((most - accuracy) / (most - 1/2), 0, 1), ' takes no gradient"
    )
    paper: ClassVar[str] = (
        "Xu, Hsu and Huang 2018, arXiv 1709.00513 (a discriminator of logits); Mescheder et al. "
        "2018, arXiv 1801.04406, equation 9 (the penalty R1); the balance g is ours"
    )
    default_weight: ClassVar[float] = 0.1
    shift_free: ClassVar[bool] = True
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType({})

    penalty: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight of the squared gradient at the teacher's answers."""
    most: Annotated[float, Field(gt=0.5, le=1)] = 0.8
    """Mean accuracy from which on the discriminator waits for the student."""
    hidden: Annotated[int, Field(ge=1, le=1 << 14)] = 64
    """Width of its two hidden layers."""

    def check(self, seen: Seen) -> None:
        """One number has nothing that is left when its mean is gone."""
        if seen.classes < 2:
            raise self.misfit("needs 2 classes or more", seen.classes)

    def module(self, seen: Seen) -> nn.Module:
        """The discriminator."""
        ours, theirs = self.sides(seen)
        return Discriminator(ours.shape[1], theirs.shape[1], self.hidden)

    def sides(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """What is told apart, `[n, d]` of student and teacher, of mean 0 in each row."""
        rows = (widened(seen.student.rows), widened(seen.teacher.rows.detach()))
        ours, theirs = (x - x.mean(-1, keepdim=True) for x in rows)
        return ours, theirs

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row; 0 where epochs are compared."""
        own, (ours, theirs) = seen.own, self.sides(seen)
        if not isinstance(own, Discriminator):
            raise ValueError(f"{self.name} needs the module that it made")
        if not (own.training and torch.is_grad_enabled()):
            return Unreduced("rows", [0.0 * ours.sum(-1)])
        scale = theirs.std(unbiased=False).clamp_min(torch.finfo(theirs.dtype).eps)
        student = own.alike(ours) / scale
        teacher = (theirs / scale).detach().requires_grad_()
        real, fake = own(teacher), own(student.detach())
        (slope,) = torch.autograd.grad(real.sum(), teacher, create_graph=True)
        penalty = self.penalty / 2 * slope.pow(2).sum(-1)
        share = own.balance(real, fake, self.most)
        told = F.softplus(-real) + F.softplus(fake) + penalty
        return Unreduced("rows", [F.softplus(-own.at_rest(student)) + share * told])

    def told(self, own: nn.Module | None) -> str:
        """How the two stand to one another."""
        if not isinstance(own, Discriminator) or not own.steps:
            return ""
        learned = float(own.learned / own.steps)
        return (
            f"discriminator of {self.name}: right about {float(own.accuracy):.0%} of the answers "
            f"where weights were kept (50%: it cannot tell), learned at {learned:.0%} of its pace"
        )


class AdversarialVectors(Adversarial):
    """As `adversarial`, of one vector for each sample: what the last layer with weights reads.

    Where the student's is of another width, a linear map is learned that makes it the teacher's.
    """

    name: ClassVar[str] = "adversarial_vectors"
    reads: ClassVar[frozenset[Reading]] = frozenset({"vectors"})
    paper: ClassVar[str] = (
        "Wang et al. 2018, AAAI 32 (a discriminator of features), with the penalty R1 of Mescheder "
        "et al. 2018, arXiv 1801.04406, equation 9; the balance g is ours"
    )
    shift_free: ClassVar[bool] = False

    def check(self, seen: Seen) -> None:
        """A vector each."""
        for side in (seen.student.vectors, seen.teacher.vectors):
            if side is None or side.ndim != 2:
                raise self.misfit("needs one vector for each sample", "none")

    def sides(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Vectors `[b, d]`, from the middle of the teacher's."""
        ours, theirs = seen.student.vectors, seen.teacher.vectors
        if ours is None or theirs is None:
            raise ValueError("adversarial_vectors needs vectors")
        ours, theirs = widened(ours), widened(theirs.detach())
        middle = theirs.mean(0)
        return ours - middle if ours.shape == theirs.shape else ours, theirs - middle

    def __call__(self, seen: Seen) -> Unreduced:
        """For each sample; 0 where epochs are compared."""
        return Unreduced("samples", super().__call__(seen).values)


class Discriminator(nn.Module):
    """A number for each row, above 0 for the teacher; part of every checkpoint.

    Args:
        student, teacher: widths.
        hidden: width of its layers.

    Attributes:
        accuracy: how often it was right of late; 1/2 at first.
        learned: the sum of the shares that it learned at.
        steps: how many there were.
    """

    accuracy: Tensor
    learned: Tensor
    steps: Tensor

    def __init__(self, student: int, teacher: int, hidden: int) -> None:
        super().__init__()
        alike = student == teacher
        self.alike = nn.Identity() if alike else nn.Linear(student, teacher)
        self.layers = nn.Sequential(
            nn.Linear(teacher, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )
        for name, start in (("accuracy", 0.5), ("learned", 0.0), ("steps", 0.0)):
            self.register_buffer(name, torch.tensor(start))

    def forward(self, rows: Tensor) -> Tensor:
        """Logits `[n]` of rows `[n, d]` of the teacher's width."""
        return self.layers(rows).squeeze(-1)  # type: ignore[no-any-return]

    def at_rest(self, rows: Tensor) -> Tensor:
        """The same, where its weights take no gradient."""
        weights = {name: weight.detach() for name, weight in self.layers.named_parameters()}
        return functional_call(self.layers, weights, (rows,)).squeeze(-1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def balance(self, real: Tensor, fake: Tensor, most: float) -> Tensor:
        """How much of its loss it is to learn from, 0 to 1, by how often it is right; counted."""
        right = ((real > 0).float().mean() + (fake <= 0).float().mean()) / 2
        self.accuracy.mul_(_STAYS).add_((1 - _STAYS) * right.to(self.accuracy.dtype))
        share = ((most - self.accuracy) / (most - 0.5)).clamp(0, 1)
        self.learned += share
        self.steps += 1
        return share.to(real.dtype)
