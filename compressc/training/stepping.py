"""One step of the optimizer: forward and backward over its batches, clipping, the new weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Generic

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from compressc import processes
from compressc.data.order import mixed
from compressc.training.batches import Drawn
from compressc.training.lesson import Batch, Lesson, Recipe
from compressc.training.machine import InBfloat16
from compressc.training.sharding import clip_gradients, is_shared
from compressc.training.sparse import keep_zeros, zeros_of
from compressc.training.statistics import batch_norms
from compressc.training.two_momenta import TwoMomenta

#: The name of the loss itself beside those of its terms.
LOSS = "total"


class Stepper(Generic[Batch]):
    """What a step does; all that it remembers is in the modules and the optimizer.

    Args:
        modules: those that are trained, the first of them called `model`.
        parameters: what is trained of them.
        lesson, recipe: what to learn, and how.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        parameters: Sequence[nn.Parameter],
        lesson: Lesson[Batch],
        recipe: Recipe,
    ) -> None:
        self.modules, self.parameters = modules, parameters
        self.lesson, self.recipe = lesson, recipe
        model = modules["model"]
        self.zeros = zeros_of(model.parameters()) if recipe.keep_zeros else {}
        self.acting = model if recipe.precision == "float32" else InBfloat16(model)

    def set_modes(self) -> None:
        """Training mode, but for what the recipe wants at rest."""
        resting: list[nn.Module] = []
        for module in self.modules.values():
            module.train()
            if not self.recipe.dropout:
                resting += [part for part in module.modules() if isinstance(part, _DropoutNd)]
            if not self.recipe.batch_statistics:
                resting += batch_norms(module.modules())
        for part in resting:
            part.eval()

    def step(
        self, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], count: int, rate: float
    ) -> dict[str, float] | None:
        """One step by the mean gradient of `count` batches.

        Args:
            optimizer: of the parameters.
            batches: as many, each seeding the generator before it is handed over.
            count: how many.
            rate: the learning rate.

        Returns:
            The sums of the loss and of its terms over the batches; None, and no step, where
            something is not finite.
        """
        optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for batch in batches:
            terms = self.lesson.terms(self.acting, batch)
            loss = self._weighted(terms)
            weight = batch.weight if isinstance(batch, Drawn) else 1.0
            told = {name: x for name, x in terms.items() if name not in self.lesson.silent}
            for name, value in _means({LOSS: loss, **told}, weight).items():
                sums[name] = sums.get(name, 0.0) + value
            if not math.isfinite(sums[LOSS]):
                return None
            if isinstance(optimizer, TwoMomenta):
                self._put_aside(optimizer, terms, weight / count)
            (loss * (weight / count)).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        processes.average([grad for grad in gradients if not is_shared(grad)])  # or they are
        norm = clip_gradients(self.parameters, self.recipe.clip or math.inf)
        if not math.isfinite(norm):
            return None
        if isinstance(optimizer, TwoMomenta):
            self._treat_alike(list(optimizer.aside.values()), norm)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        optimizer.step()
        keep_zeros(self.zeros)
        return sums

    def _put_aside(self, optimizer: TwoMomenta, terms: Mapping[str, Tensor], factor: float) -> None:
        """The part of the gradient that the labels have."""
        labels = {name: term for name, term in terms.items() if name in self.lesson.by_labels}
        slopes: Sequence[Tensor | None] = [None] * len(self.parameters)
        if any(term.requires_grad for term in labels.values()):
            loss = self._weighted(labels) * factor
            slopes = torch.autograd.grad(
                loss, self.parameters, retain_graph=True, allow_unused=True
            )
        optimizer.put_aside(self.parameters, slopes)

    def _treat_alike(self, parts: list[Tensor], norm: float) -> None:
        """Average and shorten a part of the gradient as the whole was, whose norm was `norm`."""
        processes.average(parts)
        if self.recipe.clip and norm > self.recipe.clip:
            for part in parts:
                part.mul_(self.recipe.clip / (norm + 1e-6))  # as clip_grad_norm_ does

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The loss: the sum of the terms, each with its weight."""
        weights = self.lesson.weights
        parts = [weights.get(name, 1.0) * term.float() for name, term in terms.items()]
        return torch.stack(parts).sum()


def _means(values: Mapping[str, Tensor], weight: float) -> dict[str, float]:
    """Over the processes."""
    found = torch.stack([value.detach().float() for value in values.values()]) * weight
    processes.average([found])
    return dict(zip(values, found.tolist(), strict=True))


def placed(batch: Batch, progress: float) -> Batch:
    """A batch that knows how much of the run is over, where it is of a kind that can."""
    return replace(batch, progress=progress) if isinstance(batch, Drawn) else batch


def seed_step(seed: int, epoch: int, position: int) -> None:
    """Dropout and the like of a batch are a function of its place, and of the process."""
    words = (seed, epoch, position, processes.rank())
    number = int(mixed(*words if processes.rank() else words[:3])[0])
    # `torch.manual_seed` takes 0.2 ms: it keeps a stack trace for each kind of device that sleeps
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(number)
