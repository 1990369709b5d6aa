"""What a task is: a plugin that says what targets are legal, how they teach and how they judge.

One adds a task as an entry point of the group `compressc.tasks`, or names it as `file.py:Class`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from compressc.fingerprint import Fingerprint
from compressc.plugins import TASKS, Group
from compressc.spec import Configured
from compressc.tasks.metric import Metric
from compressc.tasks.response import Kind

if TYPE_CHECKING:
    import torchmetrics

    from compressc.tasks.settled import SettledTask

#: Scores by what they are called, the one that matters most first; each accumulates by itself.
Scores = Mapping[Metric, "torchmetrics.Metric"]


class Task(Configured, ABC):
    """What a model is for. Subclass it for outputs and targets of any form.

    Where a model has one answer in each row of one output, `RowTask` knows most of it already.

    Class variables:
        name: as in `--task`, the entry point and the report.
        targets: what a legal target is, in words, for errors and docs.
        output: name of the output that is judged; None leaves it to `--judged`, or is the first.
        kinds: what outputs are, by name, where it should not be told by the graph.
        sources: of a task that was read from `file.py:Class`, the files as they were read, it and
            those beside it: path -> sha256.
    """

    entry_points: ClassVar[Group] = TASKS
    targets: ClassVar[str] = "what the task learns"
    output: ClassVar[str | None] = None
    kinds: ClassVar[Mapping[str, Kind]] = MappingProxyType({})
    sources: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @classmethod
    def remarks(cls) -> list[str]:
        """What a legal target is."""
        return [f"targets: {cls.targets}"]

    def check(self, outputs: Mapping[str, Tensor], targets: Any) -> str:
        """What is wrong with the targets of a few samples, or "": asked before any work.

        Args:
            outputs: what the teacher puts out for them, `[b, ...]` each, by name.
            targets: as the data give them, `[b, ...]`.
        """
        return ""

    @abstractmethod
    def loss(self, settled: SettledTask, values: Mapping[str, Tensor], targets: Any) -> Tensor:
        """Scalar loss by the targets of a batch.

        Args:
            settled: which output is judged, and what the others are.
            values: of each output, by its name, the value before its final softmax, sigmoid or
                norm, `[b, ...]`.
            targets: as the data give them, `[b, ...]`.
        """

    @abstractmethod
    def scores(self, settled: SettledTask) -> Scores:
        """New accumulators: updated with (predictions, targets) batch by batch, then computed.

        The first score is the one that gates, epochs and searches go by. One held against the
        teacher is updated with its predictions in place of the targets.
        """

    def predictions(self, settled: SettledTask, outputs: Mapping[str, Tensor]) -> Any:
        """What scores are updated with; the judged output as it is, where nothing else is said."""
        return outputs[settled.output]

    def code(self) -> Fingerprint:
        """The code that this runs; of a file, it and the modules beside it."""
        if not self.sources:
            return super().code()
        digest = hashlib.sha256("".join(self.sources.values()).encode()).hexdigest()
        return Fingerprint(digest, MappingProxyType({}), tuple(self.sources))
