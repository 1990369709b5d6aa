"""`check_objective`: what must hold of every distillation loss, whatever its formula is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.distillation import (
    Attention,
    ByLabels,
    Objective,
    Readings,
    Seen,
    Spans,
    mapped,
    reduce,
)

#: Of a generator: what is read off a model, in float64, for samples that are enough for all.
Draw = Callable[[torch.Generator], Readings]
#: Of student, teacher and labels: the loss by its formula, in plain loops over float64.
Definition = Callable[[Readings, Readings, Tensor], float]

#: Samples of a batch, and classes of a row.
SAMPLES, CLASSES = 12, 5
#: Draws in which a property that is said not to hold is looked for.
DRAWS = 16
#: Logits of a model that is sure.
SURE = 80.0


def draw_readings(generator: torch.Generator) -> Readings:
    """Rows, another output, maps and sequences, attention and vectors, of normal numbers."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(SAMPLES, *shape, generator=generator, dtype=torch.float64)

    heads = Attention(normal(2, 6, 4), normal(2, 6, 4), normal(2, 6, 4), 0.5)
    return Readings(
        rows=3 * normal(CLASSES),
        others=(normal(3),),
        features=(normal(4, 3, 3), normal(6, 4), normal(5)),
        attention=(heads,),
        vectors=normal(7),
        heads=(normal(4), normal(3, 2, 2)),
    )


def check_objective(
    objective: Objective,
    definition: Definition | None = None,
    draw: Draw = draw_readings,
    seed: int = 0,
) -> None:
    """Hold an objective against what must be true of every one.

    1. `minimum`: the student that is the teacher has loss 0 (to rounding) and no gradient.
    2. `descent`: the loss falls along the straight line from a random student to the teacher.
    3. `gradient`: it reaches every sample of all that the objective reads of the student, and its
       own parameters; what is read is not written to.
    4. `shift`: a number added to all logits of a row changes nothing, exactly if `shift_free`.
    5. `extremes`: value and gradient are finite in bfloat16 for logits of +-80 and a teacher that
       is sure of another class.
    6. `repetition`: a batch that is there twice has the same loss.
    7. `precision`: float32 gives what float64 gives.
    8. `definition`: so do plain loops in float64, where they are given.

    And `reduction`: values belong to what they are said to, and their mean is the loss.

    That padding has no part in it is seen to where `Seen` is made. A property that does not hold by
    the formula is named in `Objective.exempt`, with the reason; then some draw must break it.

    Args:
        objective: with its options.
        definition: of the loss.
        draw: what is read off a model, where the objective needs it of other shapes.
        seed: of what is drawn.

    Raises:
        AssertionError: naming every property that does not hold, and every exemption that does.
    """
    case = _Case.drawn(objective, draw, seed)
    faults: dict[str, str] = {name: check(case) for name, check in _CHECKS.items()}
    if definition is not None:
        faults["definition"] = _definition(case, definition)
    wrong = [f"{name}: {text}" for name, text in faults.items() if text and name not in case.exempt]
    wrong += [
        f"{name}: it holds, but is said not to: {why}"
        for name, why in case.exempt.items()
        if not faults[name] and not _breaks(name, objective, draw, seed)
    ]
    assert not wrong, f"objective '{objective.text}'\n" + "\n".join(wrong)


def _breaks(name: str, objective: Objective, draw: Draw, seed: int) -> bool:
    """Whether a property fails for one of a few more draws."""
    more = range(seed + 1, seed + DRAWS)
    return name in _CHECKS and any(
        _CHECKS[name](_Case.drawn(objective, draw, other)) for other in more
    )


@dataclass(frozen=True)
class _Case:
    """An objective and what it sees."""

    objective: Objective
    student: Readings
    teacher: Readings
    labels: Tensor
    own: nn.Module | None

    @classmethod
    def drawn(cls, objective: Objective, draw: Draw, seed: int) -> _Case:
        generator = torch.Generator().manual_seed(seed)
        student, teacher = draw(generator), draw(generator)
        labels = torch.randint(teacher.rows.shape[-1], (len(teacher.rows),), generator=generator)
        case = cls(objective, student, teacher, labels, None)
        seen = case.seen(student, teacher)
        objective.check(seen)
        student, teacher = (_without(x, objective.skipped(seen)) for x in (student, teacher))
        case = cls(objective, student, teacher, labels, None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            own = objective.module(case.seen(student, teacher))
        return replace(case, own=own if own is None else own.double())

    @property
    def exempt(self) -> Mapping[str, str]:
        """Properties that are said not to hold."""
        return self.objective.exempt

    def seen(self, student: Readings, teacher: Readings) -> Seen:
        """By plain cross entropy, where it reads labels."""
        labels = self.labels.repeat(len(student.rows) // len(self.labels))
        by = ByLabels(lambda: F.cross_entropy(student.rows.float(), labels), True)
        known = "labels" in self.objective.reads
        seen = Seen(student, teacher, labels if known else None, by if known else None)
        if "spans" not in self.objective.reads:
            return seen
        return replace(seen, spans=_spans_of(teacher.rows, labels))

    def value(self, student: Readings, teacher: Readings) -> Tensor:
        """The loss; whatever the objective remembers, it is as it was."""
        own = copy.deepcopy(self.own)
        if own is not None:
            own.to(torch.promote_types(student.rows.dtype, torch.float32))
        return self.objective.mean(replace(self.seen(student, teacher), own=own))

    def slopes(self, student: Readings, teacher: Readings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its gradient by all that is read of the student."""
        student, leaves = self.leaves(student)
        value = self.value(student, teacher)
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        plain = zip(leaves.items(), found, strict=True)
        return value.detach(), {
            name: torch.zeros_like(leaf) if slope is None else slope
            for (name, leaf), slope in plain
        }

    def leaves(self, readings: Readings) -> tuple[Readings, dict[str, Tensor]]:
        """The same readings as leaves that take gradients: those that the objective reads."""
        leaves = {
            name: value.detach().clone().requires_grad_()
            for name, value in tensors_of(readings)
            if name.partition(".")[0] in self.objective.reads
        }
        return mapped(leaves.get, readings), leaves


def _spans_of(rows: Tensor, labels: Tensor) -> Spans:
    """Of two rows each, as likely as the teacher has their labels."""
    number = torch.arange(len(rows)) // 2
    logs = rows.float().log_softmax(-1) if rows.dtype == torch.bfloat16 else rows.log_softmax(-1)
    words = logs.gather(-1, labels[:, None]).squeeze(-1)
    return Spans(number, words.new_zeros(-(-len(rows) // 2)).index_add(0, number, words))


def _without(readings: Readings, skipped: Collection[int]) -> Readings:
    """Without the feature points that an objective leaves out."""
    kept = [x for i, x in enumerate(readings.features) if i not in skipped]
    return replace(readings, features=tuple(kept))


def tensors_of(readings: Readings) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by name: `rows`, `features.0`, `attention.0.query`."""
    found: dict[str, Tensor] = {}
    mapped(found.setdefault, readings)
    yield from found.items()


def _minimum(case: _Case) -> str:
    if case.own is not None and any(True for _ in case.own.parameters()):
        return ""  # what is learned first is in the way
    value, slopes = case.slopes(case.teacher, case.teacher)
    _, far = case.slopes(case.student, case.teacher)
    if abs(float(value)) > 1e-6:
        return f"the loss of the teacher itself is {float(value):.3g}"
    worst = max(float(slope.abs().max()) for slope in slopes.values())
    usual = max(float(slope.abs().max()) for slope in far.values())
    return f"the teacher itself has a gradient of {worst:.3g}" if worst > 1e-4 * usual else ""


def _descent(case: _Case) -> str:
    if case.own is not None and any(True for _ in case.own.parameters()):
        return ""
    theirs = dict(tensors_of(case.teacher))
    values = []
    for far in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0):

        def between(name: str, x: Tensor, far: float = far) -> Tensor:
            return torch.lerp(theirs[name], x, far)

        values.append(float(case.value(mapped(between, case.student), case.teacher)))
    falls = all(after <= before + 1e-9 * abs(before) for before, after in pairwise(values))
    return "" if falls and values[-1] < values[0] else f"on the way it is {values}"


def _gradient(case: _Case) -> str:
    student, leaves = case.leaves(case.student)
    own, teacher = copy.deepcopy(case.own), mapped(lambda _, x: x.clone(), case.teacher)
    loss = case.objective.mean(replace(case.seen(student, teacher), own=own))
    parameters = dict(own.named_parameters()) if own is not None else {}
    slopes = torch.autograd.grad(loss, [*leaves.values(), *parameters.values()], allow_unused=True)
    for name, slope in zip([*leaves, *parameters], slopes, strict=True):
        if slope is None or not bool(slope.any()):
            return f"no gradient for {name}"
        if name in leaves and not bool(slope.flatten(1).any(1).all()):
            return f"no gradient for some sample of {name}"
    for before, after in ((case.student, student), (case.teacher, teacher)):
        now = dict(tensors_of(after))
        if not all(torch.equal(x, now[name]) for name, x in tensors_of(before)):
            return "what is read is written to"
    return ""


def _shift(case: _Case) -> str:
    if "rows" not in case.objective.reads:
        return ""
    by = torch.linspace(-3, 3, len(case.student.rows), dtype=torch.float64)[:, None]
    shifted = replace(case.student, rows=case.student.rows + by)
    before, after = (float(case.value(s, case.teacher)) for s in (case.student, shifted))
    same = abs(before - after) <= 1e-5 * abs(before)
    if same == case.objective.shift_free:
        return ""
    return f"shift_free is {case.objective.shift_free}, but {before:.6g} becomes {after:.6g}"


def _extremes(case: _Case) -> str:
    def sure(name: str, x: Tensor, turn: int) -> Tensor:
        far = torch.where(x > 0, SURE, -SURE)
        if name == "rows":
            chosen = F.one_hot((case.labels + turn) % x.shape[-1], x.shape[-1]).bool()
            far = torch.where(chosen, SURE, -SURE)
        return far.to(torch.bfloat16)

    teacher = mapped(lambda name, x: sure(name, x, 0), case.teacher)
    other = mapped(lambda name, x: sure(name, x, 1), case.student)
    for student in (mapped(lambda name, x: sure(name, x, 0), case.student), other):
        value, slopes = case.slopes(student, teacher)
        if not torch.isfinite(value):
            return f"the loss is {float(value)}"
        if not all(bool(torch.isfinite(slope).all()) for slope in slopes.values()):
            return "the gradient is not finite"
    return ""


def _repetition(case: _Case) -> str:
    once = float(case.value(case.student, case.teacher))
    twice = [mapped(lambda _, x: torch.cat([x, x]), side) for side in (case.student, case.teacher)]
    value = float(case.value(*twice))
    return "" if abs(once - value) <= 1e-5 * abs(once) else f"{once:.6g} becomes {value:.6g}"


def _precision(case: _Case) -> str:
    high = float(case.value(case.student, case.teacher))
    sides = [mapped(lambda _, x: x.float(), side) for side in (case.student, case.teacher)]
    low = float(case.value(*sides))
    return "" if abs(high - low) <= 1e-4 * abs(high) else f"{high:.9g} in float64, {low:.9g}"


def _reduction(case: _Case) -> str:
    seen = replace(case.seen(case.student, case.teacher), own=copy.deepcopy(case.own))
    found = case.objective(seen)
    rows = len(case.student.rows)
    leading = {"rows": (rows,), "samples": (rows,), "pairs": (rows, rows), "positions": (rows,)}
    wanted = leading.get(found.of, ())
    shapes = [tuple(values.shape[: len(wanted)]) for values in found.values]
    if any(shape != wanted for shape in shapes) or (found.of == "batch" and found.values[0].ndim):
        return f"values of {found.of} begin with {list(wanted)}, got {shapes}"
    value, means = float(case.value(case.student, case.teacher)), float(reduce(found))
    return "" if abs(value - means) <= 1e-5 * abs(value) else f"{value:.9g}, its mean {means:.9g}"


def _definition(case: _Case, definition: Definition) -> str:
    got = float(case.value(case.student, case.teacher))
    want = float(definition(case.student, case.teacher, case.labels))
    return "" if abs(got - want) <= 1e-5 * abs(want) else f"{got:.9g}, by its definition {want:.9g}"


_CHECKS: dict[str, Callable[[_Case], str]] = {
    "minimum": _minimum,
    "descent": _descent,
    "gradient": _gradient,
    "shift": _shift,
    "extremes": _extremes,
    "repetition": _repetition,
    "precision": _precision,
    "reduction": _reduction,
}
