"""Samples of each class that are changed until they teach what all of them do."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from compressc.distillation import Condensation, Making, drawn_of_each
from compressc.training import Checkpoints, Lesson, Recipe, train
from compressc_distill.families.canvas import Canvas, Numbers, Told


class Condensed(Condensation):
    """Begin with real samples, and change them by the gradient of a loss: a training of inputs.

    Inputs are changed in units of the standard deviation of all numbers of the training part.
    """

    steps: Annotated[int, Field(ge=1)] = 1000
    """Steps of the training."""
    lr: Annotated[float, Field(gt=0)] = 0.02
    """Peak step of AdamW, in standard deviations of the inputs."""
    batch: Annotated[int, Field(ge=2)] = 256
    """Real samples that a step is held against."""

    @abstractmethod
    def loss(self, made: Tensor, real: Tensor, labels: Tensor, number: int) -> Tensor:
        """Of made samples beside real ones; a scalar.

        Args:
            made: `[classes * k, ...]`, class by class.
            real: `[n, ...]`.
            labels: of the real ones, i64[n].
            number: of the step; what is drawn in it is a function of this.
        """

    def make(self, inputs: Tensor, labels: Tensor, per_class: int, making: Making) -> Tensor:
        """See `Condensation`."""
        mean, deviation = inputs.mean(), inputs.std().clamp_min(1e-6)
        real = ((inputs - mean) / deviation).to(making.device)
        labels, classes = labels.to(making.device), int(labels.max()) + 1
        start = real[drawn_of_each(labels.cpu(), per_class, making.seed)].clone()
        canvas = Canvas(start)

        def at(module: torch.nn.Module, number: int) -> Tensor:
            rows = self._rows(labels, classes, making.seed, number)
            return self.loss(module(), real[rows], labels[rows], making.seed * 1_000_003 + number)

        lesson = Lesson(
            Numbers(self.steps),
            lambda module, number: {self.name: at(module, int(number))},
            lambda module: -sum(float(at(module, self.steps + i)) for i in range(_LOOKS)) / _LOOKS,
        )
        recipe = Recipe(
            epochs=1,
            learning_rate=self.lr,
            weight_decay=0.0,
            warmup=0.0,
            clip=0.0,
            seed=making.seed,
            keep_zeros=False,
        )
        kept = Checkpoints.of(making.store, "samples")
        told = Told(making, f"{self.name}, {len(start)} samples")
        result = train(canvas, lesson, recipe, hooks=[told], checkpoints=kept)
        first, last = -result.start[0], -result.best[0]
        making.say(f"{self.text}: loss {first:.4g} -> {last:.4g}")
        return canvas.inputs.detach().cpu() * deviation.cpu() + mean.cpu()

    def _rows(self, labels: Tensor, classes: int, seed: int, number: int) -> Tensor:
        """Positions of the real samples of a step: as many of each class, as far as there are."""
        share = max(self.batch // classes, 1)
        return drawn_of_each(labels.cpu(), share, seed * 1_000_003 + number).to(labels.device)


#: Draws that a result is judged by, of those that no step sees.
_LOOKS = 8
