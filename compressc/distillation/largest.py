"""Class scores of a large vocabulary, kept short: the largest of each row, and one for all others.

A row of v logits at temperature T becomes k + 1 events: its k most likely classes, each with its
log-probability, and "any other class", with the log of the sum of their probabilities. The
divergence of these events is what is learned then, never more than that of all classes (the data
processing inequality). To take the k alone and divide by their sum would teach that nothing else
ever happens.

T has a part in it: what the others have together at T does not follow from what they have at
another T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels import TopK
from compressc.tasks import Response

#: Numbers that are looked at together: sorting out the largest takes two copies of them.
_NUMBERS = 1 << 22
#: Classes that an index of two bytes can tell apart.
_SHORT = 1 << 15


@dataclass(frozen=True)
class Shortened:
    """How class scores are kept short.

    Attributes:
        count: of the largest in each row, k.
        temperature: T of the loss that they are for.
    """

    count: int
    temperature: float

    def as_json(self) -> dict[str, float]:
        """For keys and descriptions."""
        return {"count": self.count, "temperature": float(self.temperature)}

    def of(self, scores: Tensor, response: Response) -> Largest:
        """The largest of class scores `[b, ...]`, before a final softmax.

        Raises:
            CompresscError: CC301 where the output has no class scores, or too few.
        """
        dim, classes = response.value_dim, 0
        if response.learned == "class_scores" and dim is not None:
            classes = scores.shape[dim]
        if dim is None or self.count >= classes:
            raise CompresscError(
                "CC301",
                f"the {self.count} largest are kept of more classes than that",
                got=f"{classes} classes" if classes else response.learned,
                where=f"output '{response.name}'",
            )
        rows = max(1, _NUMBERS // max(1, scores[0].numel()))
        found = [self._of(some, dim) for some in torch.split(scores, rows)]
        values, indices, tail = map(torch.cat, zip(*found, strict=True))
        return Largest(values, indices, tail, dim, classes, self.temperature)

    def _of(self, scores: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        logs = (scores.float() / self.temperature).log_softmax(dim)
        values, indices = logs.topk(self.count, dim)
        others = logs.scatter(dim, indices, -math.inf)  # not 1 - the known: that would round
        short = scores.shape[dim] <= _SHORT
        narrow = indices.to(torch.int16 if short else torch.int32)
        return values, narrow, others.logsumexp(dim, keepdim=True)


@dataclass(frozen=True)
class Largest:
    """Class scores of which the k largest are known.

    Attributes:
        values: log-probabilities at `temperature`, `[b, ...]` with k in the dimension `dim`.
        indices: their classes, integers of the same shape.
        tail: log of the probability of all other classes together, 1 in the dimension `dim`.
        dim: of the classes.
        classes: how many there are.
        temperature: T.
    """

    values: Tensor
    indices: Tensor
    tail: Tensor
    dim: int
    classes: int
    temperature: float

    @property
    def nothing(self) -> Tensor:
        """What stands where all scores would: as many samples, and no numbers."""
        return self.values.new_empty((len(self.values), 0))

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors, in order."""
        return self.values, self.indices, self.tail

    def like(self, parts: Sequence[Tensor]) -> Largest:
        """Other tensors in the same order."""
        values, indices, tail = parts
        return replace(self, values=values, indices=indices, tail=tail)

    def rows(self, parts: Sequence[Tensor]) -> TopK:
        """What the kernels take of `parts` as rows `[n, k]`, `[n, k]` and `[n, 1]`."""
        values, indices, tail = parts
        known = values.float() * self.temperature
        return TopK(known, indices.long(), tail.squeeze(-1).float().exp())

    def dense(self) -> Tensor:
        """Scores of all classes, in float32, to be judged: the others share what they have evenly.

        The known ones are as they were but for a number in each row.
        """
        others = self.classes - self.values.shape[self.dim]
        size = list(self.values.shape)
        size[self.dim] = self.classes
        spread = (self.tail.float() - math.log(others)).expand(size)
        full = spread.scatter(self.dim, self.indices.long(), self.values.float())
        return full * self.temperature
