"""What the teacher answers to each sample: computed once where it fits into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressc.distillation.points import Pair
from compressc.ir import Graph, lower
from compressc.pipeline import Samples
from compressc.training import Drawn

#: Answers up to this size are kept for the whole run.
CACHE_BYTES = 1 << 30
#: Samples the teacher is asked about at a time while the cache is filled.
ASK = 128


@dataclass(frozen=True)
class Answers:
    """What is learned `[b, ...]`, the judged one first, and a value for each feature point."""

    learned: tuple[Tensor, ...]
    features: tuple[Tensor, ...] = ()

    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, in order."""
        return (*self.learned, *self.features)

    def like(self, parts: Sequence[Tensor]) -> Answers:
        """Other tensors in the same order."""
        count = len(self.learned)
        return Answers(tuple(parts[:count]), tuple(parts[count:]))


class Reader:
    """A lowered graph together with what is read off it.

    Args:
        graph: the graph; its own layers run, and are moved to the device.
        learned: names of the values that are learned.
        points: names of the values to take for features.
    """

    def __init__(
        self, graph: Graph, learned: Sequence[str], points: Sequence[str], device: torch.device
    ) -> None:
        self.count = len(learned)
        self.module = lower(graph, also=[*learned, *points]).to(device)

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> Answers:
        """Run `module`, which is `self.module` or a wrapper of it, on a batch."""
        values: list[Any] = module(*inputs)[1]
        return Answers(tuple(values[: self.count]), tuple(values[self.count :]))


class Teacher:
    """The teacher's answers, with the channels that the student has lost left out.

    Args:
        reader: the teacher, reading the teacher's side of `pairs`.
        pairs: what to select of each feature.
        samples: that it will be asked about.
        device: that it runs on.
        cache_bytes: keep all answers where they are no larger, and samples look the same each time.
    """

    def __init__(
        self,
        reader: Reader,
        pairs: Sequence[Pair],
        samples: Samples,
        device: torch.device,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.reader, self.pairs = reader, pairs
        self.kept: Answers | None = None
        probe = self.ask(samples.take(1).to(device).inputs)
        size = sum(part.numel() * part.element_size() for part in probe.parts())
        if size * len(samples) <= cache_bytes and not samples.has_views:
            parts = samples.batches(ASK)
            self.kept = _joined(self.ask(part.to(device).inputs) for part in parts)

    def ask(self, inputs: Sequence[Tensor]) -> Answers:
        """Run the teacher on inputs `[b, ...]`."""
        with torch.no_grad():
            answers = self.reader(self.reader.module, inputs)
            pairs = zip(self.pairs, answers.features, strict=True)
            return Answers(answers.learned, tuple(pair.select(value) for pair, value in pairs))

    def answers(self, batch: Drawn) -> Answers:
        """Answers to the samples of a batch."""
        if self.kept is None:
            return self.ask(batch.samples.inputs)
        parts = self.kept.parts()
        return self.kept.like([part[batch.positions.to(part.device)] for part in parts])


def _joined(answers: Iterable[Answers]) -> Answers:
    first, *more = answers
    columns = zip(*(answer.parts() for answer in (first, *more)), strict=True)
    return first.like([torch.cat(column) for column in columns])
