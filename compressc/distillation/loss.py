"""The loss of a distillation: a weighted sum of objectives, each a term by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations

import torch
from torch import Tensor, nn

from compressc.distillation.objective import Objective, reduce
from compressc.distillation.seen import INNER, Reading, Seen
from compressc.spec import Weighted
from compressc.tasks import Response

#: The name of the term of all outputs that are not judged.
OTHERS = "other outputs"


@dataclass(frozen=True)
class Loss:
    """The sum of the terms, each times its weight; plus the mean over the other outputs.

    Two terms that a kernel computes together are minimized as one; both are told apart.

    Attributes:
        terms: of the judged output and of inner values.
        others: the outputs that are not judged, in the order of the answers, each with its
            objective.
        own: modules of objectives, by the names of their terms.
        others_weight: of the mean over the other outputs.
        together: whether terms may be minimized as one.
        trust: how much the teacher's word counts in each row, `[n]`, 0 to 1; None where it counts
            in full. Terms that labels teach, and values of anything but rows, are not weighed.
    """

    terms: tuple[Weighted[Objective], ...]
    others: tuple[tuple[Response, Objective], ...] = ()
    own: Mapping[str, nn.Module] = field(default_factory=dict)
    others_weight: float = 1.0
    together: bool = True
    trust: Callable[[Seen], Tensor] | None = None

    @cached_property
    def named(self) -> dict[str, Weighted[Objective]]:
        """Terms by the name of their objective; by its text where it is there twice."""
        count = Counter(term.of.name for term in self.terms)
        return {t.of.name if count[t.of.name] == 1 else t.of.text: t for t in self.terms}

    @cached_property
    def reads(self) -> frozenset[Reading]:
        """What the objectives read."""
        return frozenset().union(*(term.of.reads for term in self.terms))

    @cached_property
    def outer(self) -> Loss:
        """The terms that read outputs alone, by which epochs are compared; all, where none do."""
        terms = tuple(term for term in self.terms if not term.of.reads & INNER)
        return replace(self, terms=terms) if terms or self.others else self

    @cached_property
    def weights(self) -> dict[str, float]:
        """Of what `values` gives."""
        found = {name: term.weight for name, term in self.named.items()}
        if self._pair is not None:
            found[self._pair.name] = self._pair.weight
            found |= dict.fromkeys(self._pair.members, 0.0)
        return found | ({OTHERS: self.others_weight} if self.others else {})

    @property
    def silent(self) -> frozenset[str]:
        """What `values` gives that is no term, but two in one."""
        return frozenset({self._pair.name} if self._pair is not None else ())

    def fit(self, seen: Seen, seed: int) -> Loss:
        """With the modules that objectives make for themselves.

        Args:
            seen: of one sample.
            seed: of the modules' weights.

        Raises:
            CompresscError: CC301 where an objective can make nothing of what there is.
        """
        own = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, term in self.named.items():
                term.of.check(seen)
                module = term.of.module(seen)
                if module is not None:
                    own[name] = module.to(seen.student.rows.device)
        for objective, among in self._apart(seen):
            objective.check(among)
        return replace(self, own=own)

    def skipped(self, seen: Seen) -> list[tuple[int, str]]:
        """Feature points that a term leaves out, each with a line for the report.

        Args:
            seen: of one sample.
        """
        return [
            (index, f"no point of {name}: {why}")
            for name, term in self.named.items()
            for index, why in term.of.skipped(seen).items()
        ]

    def told(self) -> list[str]:
        """What objectives have to say of their modules after a training, for the report."""
        texts = (term.of.told(self.own.get(name)) for name, term in self.named.items())
        return [text for text in texts if text]

    def values(self, seen: Seen) -> dict[str, Tensor]:
        """Scalars by name; the loss is their sum by `weights`."""
        found: dict[str, Tensor] = {}
        if self._pair is not None:
            joint = found[self._pair.name] = self._pair.value(seen)
            found |= self._pair.apart(seen, joint.detach())
        return found | self._single(seen, self._paired)

    def total(self, seen: Seen) -> Tensor:
        """The loss, a scalar."""
        found = self._single(seen, self._paired)
        if self._pair is not None:
            found[self._pair.name] = self._pair.value(seen)
        return torch.stack([self.weights[name] * x.float() for name, x in found.items()]).sum()

    @property
    def names(self) -> list[str]:
        """Of the terms, each by itself."""
        return [*self.named, *([OTHERS] if self.others else [])]

    def weight_of(self, name: str) -> float:
        """Of a term by itself."""
        return self.others_weight if name == OTHERS else self.named[name].weight

    @property
    def by_labels(self) -> frozenset[str]:
        """The terms that labels alone teach."""
        return frozenset(name for name, term in self.named.items() if term.of.needs_labels)

    def separate(self, seen: Seen) -> dict[str, Tensor]:
        """Every term by itself, a scalar with its own gradient."""
        return self._single(seen, [])

    def rescaled(self, factors: Mapping[str, float]) -> Loss:
        """With the weights of the terms of these names times a factor each."""
        terms = tuple(
            Weighted(term.weight * factors.get(name, 1.0), term.of)
            for name, term in self.named.items()
        )
        others = self.others_weight * factors.get(OTHERS, 1.0)
        return replace(self, terms=terms, others_weight=others)

    @cached_property
    def _pair(self) -> _Pair | None:
        """The first two terms that a kernel computes together."""
        if not self.together or self.trust is not None:
            return None
        for (name, term), (other_name, other) in permutations(self.named.items(), 2):
            if term.of.fuses(other.of):
                return _Pair((name, other_name), term, other)
        return None

    def _single(self, seen: Seen, paired: Collection[str]) -> dict[str, Tensor]:
        """The terms but for those that are computed together."""
        found = {
            name: self._mean(term.of, replace(seen, own=self.own.get(name)))
            for name, term in self.named.items()
            if name not in paired
        }
        if self.others:
            found[OTHERS] = self._others(seen)
        return found

    @property
    def _paired(self) -> Collection[str]:
        return self._pair.members if self._pair is not None else ()

    def _mean(self, objective: Objective, seen: Seen) -> Tensor:
        """The mean over all rows, each by how far the teacher is trusted in it."""
        if self.trust is None or objective.needs_labels:
            return _mean(objective, seen)
        found = objective(seen)
        if found.of != "rows":
            return reduce(found)
        trust = self.trust(seen)
        weighed = [x * trust.view(-1, *(1 for _ in x.shape[1:])) for x in found.values]
        return reduce(replace(found, values=weighed))

    def _others(self, seen: Seen) -> Tensor:
        """The mean over the outputs that are not judged."""
        total = seen.student.rows.new_zeros(())
        for objective, among in self._apart(seen):
            total = total + objective.mean(among) / len(self.others)
        return total

    def _apart(self, seen: Seen) -> Iterator[tuple[Objective, Seen]]:
        """Each output that is not judged, where they are a term: its objective, and its rows."""
        if not self.others:
            return
        sides = zip(self.others, seen.student.others, seen.teacher.others, strict=True)
        for (response, objective), mine, its in sides:
            yield objective, seen.among(response.rows(mine), response.rows(its))


@dataclass(frozen=True)
class _Pair:
    """Two terms that a kernel computes together.

    Attributes:
        members: their names.
        first: the one whose method `fused` is asked.
        second: the other one.
    """

    members: tuple[str, str]
    first: Weighted[Objective]
    second: Weighted[Objective]

    @property
    def name(self) -> str:
        """Of the sum."""
        return " + ".join(self.members)

    @property
    def weight(self) -> float:
        """Of both together."""
        return self.first.weight + self.second.weight

    @property
    def share(self) -> float:
        """Of the first one."""
        return self.first.weight / self.weight

    def value(self, seen: Seen) -> Tensor:
        """Both means by their shares."""
        fused = self.first.of.fused(self.second.of, self.share, seen)
        if fused is not None:
            return fused
        first, second = _mean(self.first.of, seen), _mean(self.second.of, seen)
        return self.share * first + (1 - self.share) * second

    @torch.no_grad()
    def apart(self, seen: Seen, joint: Tensor) -> dict[str, Tensor]:
        """Each mean by itself, to be told: the second one, and what is left of `joint`."""
        second = _mean(self.second.of, seen)
        first = (joint - (1 - self.share) * second) / self.share
        return dict(zip(self.members, (first, second), strict=True))


def _mean(objective: Objective, seen: Seen) -> Tensor:
    """0 where there are no labels and it is nothing without."""
    if objective.needs_labels and seen.by_labels is None:
        return seen.student.rows.sum() * 0.0
    return objective.mean(seen)
