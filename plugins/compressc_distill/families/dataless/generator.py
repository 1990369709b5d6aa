"""`generator`: a network that learns to make what a teacher is sure of, and of all classes."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.distillation import Making, Synthesis
from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.training import Checkpoints, Lesson, Recipe, train
from compressc_distill.families.canvas import Numbers, Told, noise
from compressc_distill.families.dataless.inverted import (
    classes_of,
    distance,
    norms_of,
    scores_of,
    shape_of,
)

Weight = Annotated[float, Field(ge=0)]


class Generator(Synthesis):
    """Train a network that makes inputs of noise against the teacher, which judges them.

    Minimized: cross entropy of each answer with its own best class, so that the teacher is sure;
    minus the mean size of what it reads last, so that its features are at work; minus the entropy
    of the mean answer of a batch, so that all classes are made. Source: DAFL, Chen et al. 2019,
    arXiv 1904.01186, equations 3 to 6. The distance to the statistics of batch norms, as
    `deepinversion` has it, can be added.

    Legal where the teacher puts out class scores and takes one input of floats whose sizes are
    known. Cost: a forward and a backward pass of the teacher for `batch` samples in each of
    `steps`; then samples cost next to nothing.
    """

    name: ClassVar[str] = "generator"

    steps: Annotated[int, Field(ge=1)] = 1000
    """Steps of the training."""
    batch: Annotated[int, Field(ge=2)] = 128
    """Samples of a step."""
    lr: Annotated[float, Field(gt=0, le=1)] = 2e-3
    """Peak learning rate of AdamW."""
    noise: Annotated[int, Field(ge=1)] = 100
    """Numbers that a sample is made of."""
    width: Annotated[int, Field(ge=4)] = 64
    """Channels of the generator."""
    activation: Weight = 0.1
    """Weight of the size of what the last layer reads."""
    balance: Weight = 5.0
    """Weight of the entropy of the mean answer."""
    statistics: Weight = 0.0
    """Weight of the distance from the statistics of batch norms, where there are any."""

    def check(self, graph: Graph) -> None:
        """See `Synthesis`."""
        shape_of(graph, self.name)
        if not scores_of(graph) or not classes_of(graph):
            raise CompresscError(
                "CC105",
                "generator needs a teacher that puts out class scores",
                got="none, or of an open number of classes",
                where=graph.name,
                hint="--method deepinversion works by batch norms alone",
            )
        if self.statistics and not norms_of(graph):
            wanted = "generator(statistics=...) needs batch norms with statistics"
            raise CompresscError("CC105", wanted, got="none", where=graph.name)

    def make(self, graph: Graph, count: int, making: Making) -> tuple[Tensor, ...]:
        """See `Synthesis`: one training, then as many samples as are wanted."""
        self.check(graph)
        if count < (classes := classes_of(graph)):
            wanted = f"a sample of each of the {classes} classes is made at least"
            raise CompresscError("CC100", wanted, got=f"{count} samples", where=graph.name)
        judge = _Judge(self, graph, making)
        made = judge.trained()
        found = []
        with torch.no_grad():
            for start in range(0, count, self.batch):
                size = min(self.batch, count - start)
                z = noise(size, (self.noise,), making.seed * 1_000_003 + self.steps + start)
                found.append(made(z.to(making.device)).cpu())
        samples = torch.cat(found)
        judge.tell(samples)
        return (samples,)


class _Judge:
    """A teacher, and a generator that is trained by what it answers."""

    def __init__(self, options: Generator, graph: Graph, making: Making) -> None:
        self.options, self.making = options, making
        self.shape = shape_of(graph, options.name)
        self.norms = norms_of(graph) if options.statistics else []
        response = scores_of(graph)
        assert response is not None  # `check` has seen to it
        self.response, self.judged = response, response.value_in(graph)
        last = read_last(graph, self.judged)
        names = [self.judged, *last, *(op.inputs[0] for op in self.norms)]
        self.last = last
        self.names = list(dict.fromkeys(names))
        self.module = lower(graph, also=self.names).to(making.device).requires_grad_(False).eval()

    def trained(self) -> nn.Module:
        """The generator, in eval mode."""
        options, making = self.options, self.making
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(making.seed)
            made = network(options.noise, self.shape, options.width).to(making.device)

        def at(module: nn.Module, number: int) -> dict[str, Tensor]:
            z = noise(options.batch, (options.noise,), making.seed * 1_000_003 + number)
            return self.terms(module(z.to(making.device)))

        def score(module: nn.Module) -> float:
            terms = at(module, options.steps).items()
            return -sum(self.weights[name] * float(term) for name, term in terms)

        steps = Numbers(options.steps)
        lesson = Lesson(steps, lambda m, number: at(m, int(number)), score, weights=self.weights)
        recipe = Recipe(
            epochs=1,
            learning_rate=options.lr,
            weight_decay=0.0,
            seed=making.seed,
            keep_zeros=False,
        )
        kept = Checkpoints.of(making.store, "generator")
        result = train(made, lesson, recipe, hooks=[Told(making, "generator")], checkpoints=kept)
        first, last = -result.start[0], -result.best[0]
        making.say(f"{options.text}: loss {first:.4f} -> {last:.4f}")
        return made

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms."""
        options = self.options
        return {
            "sure": 1.0,
            "activation": options.activation,
            "balance": options.balance,
            "statistics": options.statistics,
        }

    def terms(self, inputs: Tensor) -> dict[str, Tensor]:
        """See `Generator`; scalars by name."""
        values = dict(zip(self.names, self.module(inputs)[1], strict=True))
        rows = self.response.rows(values[self.judged])
        found = {"sure": sure(rows), "balance": balance(rows)}
        if self.last:
            found["activation"] = -values[self.last[0]].abs().mean()
        if self.norms:
            read = [values[op.inputs[0]] for op in self.norms]
            found["statistics"] = distance(self.norms, read)
        return found

    def tell(self, samples: Tensor) -> None:
        """How many classes came out."""
        with torch.no_grad():
            rows = [
                self.response.rows(self.module(part.to(self.making.device))[1][0])
                for part in torch.split(samples, self.options.batch)
            ]
        answers = torch.cat(rows)
        counts = torch.bincount(answers.argmax(1).cpu(), minlength=answers.shape[1])
        there, most = int((counts > 0).sum()), int(counts.max())
        text = f"{there} of {len(counts)} classes were made, the most frequent {most} times"
        self.making.say(text)


def sure(rows: Tensor) -> Tensor:
    """Cross entropy of rows of scores f32[n, c] with the best class of each; a scalar."""
    return F.cross_entropy(rows, rows.argmax(1))


def balance(rows: Tensor) -> Tensor:
    """Minus the entropy of the mean answer of scores f32[n, c], in nats; a scalar."""
    mean = rows.softmax(1).mean(0)
    return (mean * mean.clamp_min(1e-12).log()).sum()


def read_last(graph: Graph, value: str) -> list[str]:
    """What the last layer with weights in front of a value reads, where it is one op away."""
    op = graph[value]
    return [op.inputs[0]] if op.layer is not None and op.inputs else []


def network(size: int, shape: tuple[int, ...], width: int) -> nn.Module:
    """Noise f32[n, size] to inputs f32[n, *shape], each number about 0 with variance 1.

    Images by two doublings and convolutions, as DAFL has it; other inputs by linear layers.
    """
    total = int(torch.Size(shape).numel())
    if len(shape) != 3:
        first = [nn.Linear(size, 4 * width), nn.BatchNorm1d(4 * width), nn.LeakyReLU(0.2)]
        last = [nn.Linear(4 * width, total), nn.BatchNorm1d(total, affine=False)]
        return nn.Sequential(*first, *last, nn.Unflatten(1, shape))
    channels, height, across = shape
    low, middle = ((-(-height // by), -(-across // by)) for by in (4, 2))
    begin = [nn.Linear(size, 2 * width * low[0] * low[1]), nn.Unflatten(1, (2 * width, *low))]
    layers: list[nn.Module] = [*begin, nn.BatchNorm2d(2 * width)]
    for into, out, to in ((2 * width, 2 * width, middle), (2 * width, width, (height, across))):
        layers += [nn.Upsample(to), nn.Conv2d(into, out, 3, padding=1)]
        layers += [nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
    end = [nn.Conv2d(width, channels, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, *end, nn.BatchNorm2d(channels, affine=False))
