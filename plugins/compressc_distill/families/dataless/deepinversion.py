"""`deepinversion`: inputs that a teacher's batch norms know as its own."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import Making, Synthesis
from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.training import Checkpoints, Lesson, Recipe, train
from compressc_distill.families.canvas import Canvas, Repeated, Told, noise
from compressc_distill.families.dataless.inverted import (
    classes_of,
    distance,
    norms_of,
    scores_of,
    shape_of,
)

Weight = Annotated[float, Field(ge=0)]


class DeepInversion(Synthesis):
    """Start from noise, and change it until batch norms see what they saw in training.

    Minimized by the inputs: cross entropy with classes evenly spread, where the teacher puts out
    class scores; the distance of mean and variance before each batch norm from those it remembers;
    differences of neighbouring pixels, and the squares of all numbers. Source: Yin et al. 2020,
    arXiv 1912.08795, equations 2 to 4; images are moved by a few pixels in each step, as its
    authors do.

    Legal where the teacher has batch norms with statistics and one input of floats whose sizes are
    known. Cost: `steps` forward and backward passes of the teacher for each `batch` of samples.
    """

    name: ClassVar[str] = "deepinversion"

    steps: Annotated[int, Field(ge=1)] = 300
    """Steps for each batch."""
    batch: Annotated[int, Field(ge=2)] = 256
    """Samples that are made together: the batch norms see them as one."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Peak step of AdamW, in numbers of the input."""
    classes: Weight = 1.0
    """Weight of the cross entropy."""
    statistics: Weight = 1.0
    """Weight of means and variances: the mean over batch norms of the relative distances."""
    smooth: Weight = 1e-3
    """Weight of the differences of neighbouring pixels, for images `[n, c, h, w]`."""
    small: Weight = 1e-4
    """Weight of the mean square of the inputs."""
    shift: Annotated[int, Field(ge=0)] = 1
    """How far images move in a step at most, in pixels, and come in again at the other side."""

    def check(self, graph: Graph) -> None:
        """See `Synthesis`."""
        if not norms_of(graph):
            raise CompresscError(
                "CC105",
                "deepinversion needs batch norms, whose statistics tell of the training data",
                got="none with statistics",
                where=graph.name,
                hint="give --data, with or without labels",
            )
        shape_of(graph, self.name)

    def make(self, graph: Graph, count: int, making: Making) -> tuple[Tensor, ...]:
        """See `Synthesis`; batch by batch, each a training of its own."""
        self.check(graph)
        classes = classes_of(graph)
        if count < classes:
            wanted = f"a sample of each of the {classes} classes is made at least"
            raise CompresscError("CC100", wanted, got=f"{count} samples", where=graph.name)
        inverse = _Inverse(self, graph, making)
        sizes = [len(part) for part in torch.arange(count).chunk(-(-count // self.batch))]
        begins = [sum(sizes[:i]) for i in range(len(sizes))]
        parts = [
            inverse.part(i, begin, size, len(sizes))
            for i, (begin, size) in enumerate(zip(begins, sizes, strict=True))
        ]
        inverse.tell()
        return (torch.cat(parts),)


class _Inverse:
    """A teacher, and how inputs are made from it."""

    def __init__(self, options: DeepInversion, graph: Graph, making: Making) -> None:
        self.options, self.making = options, making
        self.shape = shape_of(graph, options.name)
        self.norms = norms_of(graph)
        self.response = scores_of(graph)
        judged = [] if self.response is None else [self.response.value_in(graph)]
        names = [*judged, *(op.inputs[0] for op in self.norms)]
        self.names = list(dict.fromkeys(names))
        self.module = lower(graph, also=self.names).to(making.device).requires_grad_(False).eval()
        self.judged = judged
        self.history: list[tuple[float, float]] = []

    def part(self, number: int, begin: int, size: int, parts: int) -> Tensor:
        """One batch; its classes go on where those before it ended."""
        making, options = self.making, self.options
        canvas = Canvas(noise(size, self.shape, making.seed + number)).to(making.device)
        wanted = torch.arange(begin, begin + size, device=making.device)
        lesson = Lesson(
            Repeated(options.steps, wanted),
            lambda module, batch: self.terms(self.moved(module()), batch),
            lambda module: -self.loss(module(), wanted),
            weights=self.weights,
        )
        recipe = Recipe(
            epochs=1,
            learning_rate=options.lr,
            weight_decay=0.0,
            warmup=0.0,
            clip=0.0,
            seed=making.seed + number,
            keep_zeros=False,
        )
        told = Told(making, f"deepinversion, batch {number + 1} of {parts}")
        kept = Checkpoints.of(making.store, f"part {number:04d}")
        result = train(canvas, lesson, recipe, hooks=[told], checkpoints=kept)
        self.history.append((-result.start[0], -result.best[0]))
        return canvas.inputs.detach().cpu()

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms."""
        options = self.options
        return {
            "classes": options.classes,
            "statistics": options.statistics,
            "smooth": options.smooth,
            "small": options.small,
        }

    def terms(self, inputs: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """See `DeepInversion`; scalars by name.

        Args:
            inputs: `[n, ...]`.
            wanted: positions of these samples among all, i64[n].
        """
        values = dict(zip(self.names, self.module(inputs)[1], strict=True))
        found = {"statistics": distance(self.norms, [values[op.inputs[0]] for op in self.norms])}
        if self.response is not None:
            rows = self.response.rows(values[self.judged[0]])
            classes = (wanted % rows.shape[-1]).repeat_interleave(len(rows) // len(wanted))
            found["classes"] = F.cross_entropy(rows, classes)
        if inputs.ndim == 4:
            found["smooth"] = variation(inputs)
        return {**found, "small": inputs.pow(2).mean()}

    def loss(self, inputs: Tensor, wanted: Tensor) -> float:
        """The weighted sum."""
        terms = self.terms(inputs, wanted).items()
        return sum(self.weights[name] * float(term) for name, term in terms)

    def moved(self, inputs: Tensor) -> Tensor:
        """Images by a few pixels; all of a step alike."""
        reach = self.options.shift
        if inputs.ndim != 4 or not reach:
            return inputs
        steps = torch.randint(-reach, reach + 1, (2,)).tolist()
        return inputs.roll(steps, (2, 3))

    def tell(self) -> None:
        """How far the loss fell."""
        first, last = (sum(x) / len(self.history) for x in zip(*self.history, strict=True))
        self.making.say(f"{self.options.text}: loss {first:.4f} -> {last:.4f}, mean of batches")
        if self.response is None:
            self.making.say("no class scores: made by the statistics of batch norms alone")


def variation(images: Tensor) -> Tensor:
    """Mean square of the differences of neighbouring pixels of `[n, c, h, w]`; a scalar."""
    steps = [images.diff(dim=dim).pow(2) for dim in (2, 3) if images.shape[dim] > 1]
    return sum((x.mean() for x in steps), images.new_zeros(()))
