"""What all studies have: a model that is loaded once, runs of it by seed, and a record."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressc.compile import Compiled, compile
from compressc.errors import CompresscError
from compressc.events import Listener, ignore
from compressc.report.study_record import Picture, StudyRecord, Table
from compressc.target import Target

if TYPE_CHECKING:
    from compressc.data import Dataset
    from compressc.pipeline import Pass
    from compressc.report.record import Record
    from compressc.session import Session
    from compressc.tasks import SettledTask

Kind = Literal["fidelity", "temperature", "bias", "order"]


@dataclass
class Study:
    """A model with data, and how it is run; see `open_study`.

    Attributes:
        session: the model, its data and its task.
        seeds: each run is done with all of them.
        device: where passes train.
        cache: as for `compressc.compile`: a study that was killed goes on where it was.
        tell: told how far it is.
    """

    session: Session
    seeds: tuple[int, ...]
    device: str = "cpu"
    cache: str | Path | None = "default"
    checkpoint_every: float = 60.0
    tell: Listener = ignore
    _started: float = field(default_factory=time.perf_counter, repr=False)
    _last: Record | None = field(default=None, repr=False)

    @property
    def data(self) -> Dataset:
        """The parts of the data."""
        assert self.session.data is not None  # `open_study` has seen to it
        return self.session.data

    @property
    def task(self) -> SettledTask:
        """What is learned and judged."""
        assert self.session.task is not None
        return self.session.task

    def run(self, passes: str | Sequence[Pass], seed: int, *, any_order: bool = False) -> Compiled:
        """One run: passes, and scores on the test part; nothing is emitted.

        Raises:
            CompresscError: as `compressc.compile` does.
        """
        made = compile(
            self.session.loaded.graph,
            passes,
            data=self.data,
            seed=seed,
            task=self.task.task if self.task.named else None,
            judged=self.task.output if len(self.task.responses) > 1 else None,
            target=Target(backends=(), batches=(), device=self.device),
            cache=self.cache,
            checkpoint_every=self.checkpoint_every,
            any_order=any_order,
            tell=self.tell,
        )
        self._last = made.report
        return made

    def record(
        self, kind: Kind, findings: list[str], tables: list[Table], pictures: list[Picture]
    ) -> StudyRecord:
        """The record of what was run."""
        assert self._last is not None
        assert self._last.data is not None
        name = Path(sys.argv[0]).name
        called = " ".join([name, *sys.argv[1:]]) if name == "compressc" else f"study.{kind}(...)"
        return StudyRecord(
            study=kind,
            compressc_version=self._last.compressc_version,
            command=called,
            seeds=list(self.seeds),
            versions=self._last.versions,
            machine=self._last.machine,
            source=self.session.loaded.source,
            teacher_sha256=self._last.teacher.sha256,
            teacher=self._last.teacher.scores,
            data=self._last.data,
            findings=findings,
            tables=tables,
            pictures=pictures,
            wall_seconds=time.perf_counter() - self._started,
        )


def open_study(  # noqa: PLR0913  (each is an option of the command line)
    model: Any,
    *,
    data: Any,
    seeds: int | Sequence[int] = 3,
    device: str = "cpu",
    cache: str | Path | None = "default",
    checkpoint_every: float = 60.0,
    tell: Listener = ignore,
    **options: Any,
) -> Study:
    """Load a model and its data for any number of runs.

    Args:
        model, data, device, cache, checkpoint_every, tell: as for `compressc.compile`.
        seeds: how many, from 0 on; or these.
        options: of `compressc.session.open_session`.

    Raises:
        CompresscError: CC105 without data or labels, and whatever the model and the data say.
    """
    from compressc.session import open_session

    if data is None:
        raise CompresscError("CC105", "a study needs data", hint="give --data")
    session = open_session(model, data=data, **options)
    assert session.data is not None
    assert session.task is not None
    if not (session.task.labels and session.data.test.has_labels):
        why = "; ".join(session.task.warnings) or "none"
        raise CompresscError("CC105", "a study needs labels to judge by", got=why)
    given = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    return Study(session, given, device, cache, checkpoint_every, tell)


def scores_of(record: Record) -> tuple[float, float | None]:
    """Of the last graph on the test part: the task's first score, and the agreement."""
    assert record.task is not None
    assert record.task.primary is not None
    scores = record.passes[-1].scores
    alike = next((one.name for one in record.task.metrics if one.against == "teacher"), "")
    return scores[record.task.primary.name], scores.get(alike)
