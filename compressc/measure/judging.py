"""Scores of models and files over a whole part of the data, beside the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.pipeline import Batch, Samples
from compressc.tasks import Scoring, SettledTask

#: Samples that run together, and the numbers that their outputs may hold.
SAMPLES, ROOM = 256, 1 << 25
#: Samples that tell how large outputs are.
FIRST = 8
#: Bytes of the teacher's outputs that are kept for the next model; beyond, it is run again.
KEPT = 1 << 28

#: A model or a file: its inputs of a batch -> what it returns.
Run = Callable[..., object]


@dataclass
class Judge:
    """Scores any number of models on the same samples.

    A batch of outputs is scored and forgotten: what is held does not grow with the samples, but for
    the teacher's outputs, as far as there is room for them.

    Attributes:
        settled: the task.
        teacher: the uncompressed model, ready to run.
        samples: inputs and, where there are any, labels that no pass has seen.
    """

    settled: SettledTask
    teacher: Run
    samples: Samples
    _answers: list[dict[str, Tensor]] = field(default_factory=list, repr=False)
    _kept: int = 0

    def of(self, run: Run) -> Scoring:
        """Every score of a model."""
        scoring = Scoring(self.settled)
        with torch.no_grad():
            for place, batch in enumerate(self._batches()):
                ours = self._outputs(run, batch)
                scoring.update(ours, self._targets(batch), self._theirs(place, batch))
        return scoring

    @cached_property
    def of_teacher(self) -> Scoring:
        """The teacher's: against itself it is perfect, against labels it is not."""
        scoring = Scoring(self.settled)
        with torch.no_grad():
            for place, batch in enumerate(self._batches()):
                theirs = self._theirs(place, batch)
                scoring.update(theirs, self._targets(batch), theirs)
        return scoring

    def _batches(self) -> Iterator[Batch]:
        return self.samples.batches(self._size)

    @cached_property
    def _size(self) -> int:
        """As many samples as there is room for their outputs."""
        few = self.samples.take(FIRST)
        with torch.no_grad():
            outputs = self._outputs(self.teacher, few)
        numbers = sum(x.numel() for x in outputs.values()) / max(len(few), 1)
        return int(max(1, min(SAMPLES, ROOM // max(numbers, 1))))

    def _theirs(self, place: int, batch: Batch) -> dict[str, Tensor]:
        if place < len(self._answers):
            return self._answers[place]
        outputs = self._outputs(self.teacher, batch)
        size = sum(x.nbytes for x in outputs.values())
        if place == len(self._answers) and self._kept + size <= KEPT:
            self._answers.append(outputs)
            self._kept += size
        return outputs

    def _targets(self, batch: Batch) -> Any:
        return self.settled.targets(batch.inputs, batch.labels)

    def _outputs(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        """What scores read of a batch, on the CPU.

        Raises:
            CompresscError: CC301 where a model returns something else than a row for each sample.
        """
        found = self.settled.outputs(run(*batch.inputs))
        for name, output in found.items():
            if not output.ndim or output.shape[0] != len(batch):
                raise CompresscError(
                    "CC301",
                    f"a model returns one tensor with {len(batch)} rows for {len(batch)} samples",
                    got=f"shape {list(output.shape)}",
                    where=f"output '{name}'",
                    hint="compress a module whose forward returns logits [n, ...]",
                )
        return {name: output.detach().cpu() for name, output in found.items()}
