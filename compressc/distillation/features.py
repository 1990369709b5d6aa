"""Objectives of inner values: what feature points they take; projectors where widths differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from compressc.distillation.objective import Objective, widened
from compressc.distillation.seen import Reading, Seen

#: Of a feature: a map `[b, c, h, w]`, a sequence `[b, s, d]`, a vector `[b, d]`, or anything else.
Form = Literal["map", "sequence", "vector", "other"]
_BY_DIMENSIONS: Mapping[int, Form] = {4: "map", 3: "sequence", 2: "vector"}
_PLURAL: Mapping[Form, str] = {
    "map": "maps [b, c, h, w]",
    "sequence": "sequences [b, s, d]",
    "vector": "vectors [b, d]",
    "other": "values of any shape",
}


def form_of(feature: Tensor) -> Form:
    """By the number of dimensions."""
    return _BY_DIMENSIONS.get(feature.ndim, "other")


def channel_dim(feature: Tensor) -> int:
    """Of maps the dimension after the batch, of all else the last one."""
    return 1 if form_of(feature) == "map" else -1


@dataclass(frozen=True)
class Point:
    """A feature of both models, in float32 or better.

    Attributes:
        student, teacher: `[b, ...]`, of one shape where the objective compares channels.
        valid: of a sequence, which positions count, bool `[b, s]`; None for all.
    """

    student: Tensor
    teacher: Tensor
    valid: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """Of each sample; of each position where some do not count."""
        if self.valid is None:
            return self.student.new_ones(len(self.student))
        return self.valid.to(self.student.dtype)

    def counted(self, feature: Tensor) -> Tensor:
        """The part of it that counts: of a sequence the positions `[n, d]` that are no padding."""
        return feature if self.valid is None else feature[self.valid]


def point_of(seen: Seen, student: Tensor, teacher: Tensor) -> Point:
    """Values of one shape `[b, ...]`, with the positions that count where they are sequences."""
    return Point(widened(student), widened(teacher), _valid(seen, student))


def weights_of(points: Sequence[Point]) -> list[Tensor]:
    """For `Unreduced`: none where all positions count."""
    padded = any(point.valid is not None for point in points)
    return [point.weight for point in points] if padded else []


class FeatureObjective(Objective):
    """A distillation loss of inner values, at every feature point that it can make something of.

    Where the student's channels are not those of the teacher (a student of another family), a
    linear map is learned that makes them so, without bias; a 1x1 convolution for maps. Maps of
    other sizes are pooled to the smaller one.

    Class variables:
        takes: forms of features; points of others are left out.
        by_channel: it compares channel with channel, so that both must have as many.
    """

    reads: ClassVar[frozenset[Reading]] = frozenset({"features"})
    takes: ClassVar[frozenset[Form]] = frozenset({"map", "sequence", "vector", "other"})
    by_channel: ClassVar[bool] = True

    def refuses(self, student: Tensor, teacher: Tensor) -> str:
        """Why it can make nothing of a point, beside its form; empty where it can.

        Args:
            student, teacher: the features of one sample, `[1, ...]`, of a form that it takes.
        """
        return ""

    def check(self, seen: Seen) -> None:
        """One point at least must suit it."""
        skipped = self.skipped(seen)
        if len(skipped) == len(seen.student.features):
            got = "; ".join(dict.fromkeys(skipped.values())) or "no feature points"
            hint = "distill(loss='ce + kd + hint') takes values of any shape"
            raise self.misfit(f"needs {self._forms}", got, hint)

    def skipped(self, seen: Seen) -> dict[int, str]:
        """Points that are left out, by their place, and why."""
        found = {}
        for index, (ours, theirs) in enumerate(_sides(seen)):
            why = self._refuses(ours, theirs)
            if why:
                found[index] = why
        return found

    def module(self, seen: Seen) -> nn.Module | None:
        """A linear map for each point whose widths differ, the identity for the others."""
        if not self.by_channel:
            return None
        maps = [
            _projector(ours, theirs)
            for ours, theirs in _sides(seen)
            if not self._refuses(ours, theirs)
        ]
        return nn.ModuleList(maps) if any(not isinstance(m, nn.Identity) for m in maps) else None

    def points(self, seen: Seen) -> list[Point]:
        """The features of a batch that it takes, projected and pooled where that is needed."""
        found, own = [], None
        if self.by_channel and isinstance(seen.own, nn.ModuleList):
            own = iter(seen.own)
        for ours, theirs in _sides(seen):
            if self._refuses(ours[:1], theirs[:1]):
                continue
            student, teacher = pooled_alike(widened(ours), widened(theirs))
            if own is not None:
                student = next(own)(student)
            found.append(Point(student, teacher, _valid(seen, student)))
        return found

    @property
    def _forms(self) -> str:
        """What it takes, in words."""
        return " or ".join(text for form, text in _PLURAL.items() if form in self.takes)

    def _refuses(self, ours: Tensor, theirs: Tensor) -> str:
        forms = form_of(ours), form_of(theirs)
        if not self.takes.issuperset(forms) or forms[0] != forms[1]:
            shapes = dict.fromkeys((_shape(ours), _shape(theirs)))
            return f"{' and '.join(shapes)} where {self._forms} are needed"
        return self.refuses(ours, theirs)


def pooled_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps averaged to the smaller of both sizes; all else as it is."""
    if form_of(student) != "map" or form_of(teacher) != "map":
        return student, teacher
    h, w = (min(student.shape[dim], teacher.shape[dim]) for dim in (2, 3))
    sides = [
        x if x.shape[2:] == (h, w) else F.adaptive_avg_pool2d(x, (h, w)) for x in (student, teacher)
    ]
    return sides[0], sides[1]


def _projector(student: Tensor, teacher: Tensor) -> nn.Module:
    dim = channel_dim(student)
    ours, theirs = student.shape[dim], teacher.shape[dim]
    if ours == theirs:
        return nn.Identity()
    if form_of(student) == "map":
        return nn.Conv2d(ours, theirs, 1, bias=False)
    return nn.Linear(ours, theirs, bias=False)


def _sides(seen: Seen) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(seen.student.features, seen.teacher.features, strict=True)


def _valid(seen: Seen, feature: Tensor) -> Tensor | None:
    """The positions that count, where the feature is a sequence of those positions."""
    if seen.valid is None or form_of(feature) != "sequence":
        return None
    return seen.valid if seen.valid.shape == feature.shape[:2] else None


def _shape(feature: Tensor) -> str:
    return str(["b", *feature.shape[1:]]).replace("'", "")
