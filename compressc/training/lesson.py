"""What to learn, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from torch import Tensor, nn

from compressc.training.batches import Batches
from compressc.training.best import Score
from compressc.training.optimizer import Group

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the data, at least 1; what `steps` or `budget` say comes before it.
        learning_rate: peak of the schedule; None for one that goes by the weights.
        weight_decay: on matrices and filters, not on biases and norms.
        warmup: share of the steps over which the learning rate rises.
        clip: largest norm of the gradient of all parameters together; 0 for any.
        seed: of the order of the data and of dropout.
        dropout: whether dropout is at work in steps.
        batch_statistics: whether batch norms work by the statistics of each batch in steps; else
            by those they remember, which stay as they are.
        steps: of the optimizer, at least 1; None for whole epochs.
        budget: seconds that the run may take: the pace is measured before the first step, and so
            many steps are planned as fit. Then the same seed does not give the same bytes.
        optimizer: AdamW, or SGD with momentum.
        momentum: of SGD.
        keep_zeros: zeros of sparse weights do not move; see `compressc.training.sparse`.
        dot: the momentum of SGD is smaller by this for the terms in `Lesson.by_labels`, and larger
            for all others; see `compressc.training.two_momenta`. 0 for one momentum.
        accumulate: batches of a step.
        ema: share that stays of a moving average of the weights in a step; the average is
            validated and kept. 0 for none.
        channels_last: images and filters lie in memory pixel by pixel in steps.
        precision: of matrix products and convolutions of the module in steps.
        shard: each of several processes holds a part of the weights of the module, with their
            gradients and moments. `channels_last` has no effect then.
    """

    epochs: int
    learning_rate: float | None
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    seed: int = 0
    dropout: bool = True
    batch_statistics: bool = True
    steps: int | None = None
    budget: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    accumulate: int = 1
    ema: float = 0.0
    channels_last: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    shard: bool = False
    dot: float = 0.0
    keep_zeros: bool = True


@dataclass(frozen=True)
class Lesson(Generic[Batch]):
    """What to learn.

    Attributes:
        batches: the training data.
        terms: of the loss for a batch, scalars by name; their weighted sum is minimized. Given the
            module or a wrapper of it.
        validate: score of the module in eval mode without gradients; higher is better.
        seen: batches of inputs `[n, ...]` that batch norms take their statistics from before a
            validation; without any they keep the running averages of the steps.
        weights: of terms; 1 for those that are not named.
        beside: other modules that the terms use and that are trained along, by name.
        groups: what is trained; all parameters of all modules where none are given.
        silent: terms that nobody is told of, since their parts are.
        by_labels: terms that the labels teach, for `Recipe.dot`.
        seen_last: more of them, for the best state at the end of the run; it keeps the statistics
            it was chosen with where it scores lower with those.
    """

    batches: Batches[Batch]
    terms: Callable[[nn.Module, Batch], Mapping[str, Tensor]]
    validate: Callable[[nn.Module], Score]
    seen: Iterable[Sequence[Tensor]] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    beside: Mapping[str, nn.Module] = field(default_factory=dict)
    groups: Sequence[Group] = ()
    silent: frozenset[str] = frozenset()
    by_labels: frozenset[str] = frozenset()
    seen_last: Iterable[Sequence[Tensor]] = ()
