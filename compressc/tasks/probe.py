"""The teacher asked about a few samples, before any pass runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.pipeline import Samples, TransferSet
from compressc.strangers import reading
from compressc.tasks.response import Response

#: Samples the teacher is asked about; more, where these leave open whether it knows the labels.
FEW, MANY, BATCH = 64, 1024, 16
#: Numbers that its outputs may hold together: a language model's logits are large.
ROOM = 1 << 25


class Probe:
    """The teacher's outputs for a few samples of one part, drawn at random."""

    def __init__(self, graph: Graph, data: TransferSet, part: str = "", few: int = FEW) -> None:
        self.graph, self.data = graph, data
        if not part:
            by_test = not data.train.has_labels and data.test.has_labels
            part = "test" if by_test else "train"
        self.part, self.samples = part, parts_of(data)[part]
        # at random, because labels may be sorted
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(0))
        self._order, self.index = order[:MANY], order[:few]
        self._known: dict[int, Tensor] = {}
        self._labels: list[Tensor] = []

    def widen(self) -> bool:
        """Look at more samples; False where there are none, or no room for more."""
        if len(self.index) < min(FEW, len(self._order)) or len(self.index) == len(self._order):
            return False
        self.index, self._known, self._labels = self._order, {}, []
        return True

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Of the samples, `[k, ...]` each, by the names of the model's inputs."""
        names = (op.name for op in self.graph.inputs)
        return dict(zip(names, self.samples.select(self.index).inputs, strict=False))

    @property
    def labels(self) -> Tensor:
        """Of the samples, `[k, ...]`."""
        if not self._labels:
            self._labels = [self.samples.select(self.index).labels]
        return torch.cat(self._labels)[: len(self.index)]

    @property
    def highest(self) -> int:
        """The highest label of all parts: one out of range anywhere is found before any work."""
        labels = [part.all_labels() for part in parts_of(self.data).values()]
        labels.append(self.labels)
        return max(int(some.max()) for some in labels if some is not None)

    def outputs(self, responses: Sequence[Response]) -> list[Tensor]:
        """What the teacher puts out for the samples, `[k, ...]` each."""
        missing = [r for r in responses if r.index not in self._known]
        if missing:
            names = [self.graph.output_names[r.index] for r in missing]
            parts = list(self._run(lower(self.graph, also=names)))
            for response, column in zip(missing, zip(*parts, strict=True), strict=True):
                self._known[response.index] = torch.cat(column)
        count = min(map(len, self._known.values()))
        self.index = self.index[:count]
        return [self._known[r.index][:count] for r in responses]

    @torch.no_grad()
    def _run(self, module: nn.Module) -> Iterator[list[Tensor]]:
        """Batch by batch, until there is no room for more."""
        room, self._labels = ROOM, []
        for index in torch.split(self.index, BATCH):
            batch = self.samples.select(index)
            if self.samples.has_labels:
                self._labels.append(batch.labels)
            wanted, hint = f"the model runs on the {self.part} data", "check the data set"
            with reading("CC204", wanted, self.graph.name, hint):
                values = module(*batch.inputs)[1]
            for value in values:
                _check_rows(value, len(index))
            yield values
            room -= sum(value.numel() for value in values)
            if room < 0:
                return


def parts_of(data: TransferSet) -> dict[str, Samples]:
    """The parts of a transfer set by name."""
    found = {"train": data.train, "calibration": data.calibration, "test": data.test}
    return found if data.validation is None else found | {"validation": data.validation}


def _check_rows(value: Tensor, samples: int) -> None:
    if value.shape[0] != samples:
        raise CompresscError(
            "CC301",
            f"a model returns {samples} rows for {samples} samples",
            got=f"shape {list(value.shape)}",
            hint="compress a module whose forward returns logits [n, ...]",
        )
