"""`minilm`: how near the positions of a text are to one another, in each head."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from compressc.distillation import Attention, Objective, Reading, Seen, Unreduced, widened
from compressc.kernels import softmax_kl
from compressc_distill.reading import counted, sides


class MiniLm(Objective):
    """KL of the softmax of queries with queries, keys with keys, and values with values.

    Of one layer in the last third. Heads are put together and cut again into relation heads, as
    many on both sides, so that neither the width nor the heads need be the teacher's: made for a
    student with fewer heads. Padding does not count.
    """

    name: ClassVar[str] = "minilm"
    reads: ClassVar[frozenset[Reading]] = frozenset({"attention"})
    formula: ClassVar[str] = (
        "sum over x = q, k, v of mean KL(r(x of t) || r(x of s)), r(x) = softmax(x x' / sqrt(d))"
    )
    paper: ClassVar[str] = "Wang et al. 2021 (MiniLMv2), arXiv 2012.15828, section 3.1"

    heads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Relation heads; `auto` is as many as the teacher has, or fewer where widths do not divide."""
    depth: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Which of the layers that are matched: 1 for the last one. The paper takes the last of 12 and
    the 21st of 24."""

    def check(self, seen: Seen) -> None:
        """Widths must divide into the heads that are asked for."""
        ours, theirs = self._layer(seen)
        widths = _widths(ours, theirs)
        if self.heads != "auto" and any(width % self.heads for width in widths):
            got = f"widths {', '.join(map(str, sorted(set(widths))))}"
            raise self.misfit(
                f"needs widths that divide into {self.heads} heads", got, "heads=auto"
            )

    def __call__(self, seen: Seen) -> Unreduced:
        """For each position of each sample, the mean over relation heads."""
        ours, theirs = self._layer(seen)
        heads = self._heads(ours, theirs)
        queries, keys = counted(seen, ours)
        values, weights = [], []
        for name, valid in (("query", queries), ("key", keys), ("value", keys)):
            student, teacher = (_relations(getattr(x, name), heads, valid) for x in (ours, theirs))
            values.append(3 * softmax_kl(student, teacher).mean(1))  # a sum, no mean
            weights.append(valid.to(values[-1].dtype))
        return Unreduced("positions", values, weights=weights)

    def _layer(self, seen: Seen) -> tuple[Attention, Attention]:
        layers = list(sides(seen))
        return layers[math.ceil(self.depth * len(layers)) - 1]

    def _heads(self, ours: Attention, theirs: Attention) -> int:
        if self.heads != "auto":
            return self.heads
        common = math.gcd(*_widths(ours, theirs))
        most = min(theirs.query.shape[1], common)
        return next(count for count in range(most, 0, -1) if common % count == 0)


def _widths(*layers: Attention) -> list[int]:
    """Heads times their width, of queries, keys and values."""
    values = (x for layer in layers for x in (layer.query, layer.key, layer.value))
    return [x.shape[1] * x.shape[3] for x in values]


def _relations(x: Tensor, heads: int, valid: Tensor) -> Tensor:
    """`[b, h, s, d]` -> scaled products `[b, heads, s, s]`, -inf where padding is looked at."""
    together = widened(x).transpose(1, 2).flatten(2)
    apart = together.reshape(*together.shape[:2], heads, -1).transpose(1, 2)
    scores: Tensor = apart @ apart.mT / math.sqrt(apart.shape[-1])
    return scores.masked_fill(~valid[:, None, None, :], -math.inf)
