"""The record of a run: every fact and measurement, in a form that outlives the program.

`manifest.json` is this model as JSON. `SCHEMA_VERSION` grows with every change of the fields.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import AwareDatetime, Field

from compressc.backend.file_record import Failure, FileRecord, Frozen, Scored
from compressc.report.schema import SCHEMA_VERSION, upgraded
from compressc.report.stored import Stored
from compressc.tasks import Kind, Metric


class Note(Frozen):
    """Something a pass did not do, and why."""

    #: Name of the op, or "" for the whole graph.
    op: str
    text: str


class TaskRecord(Frozen):
    """What was learned and judged; see `compressc.tasks.SettledTask`."""

    #: Of the plugin: classification, segmentation, ...; "" where schema 2 did not have it yet.
    name: str = ""
    #: As a user would write it, with its options.
    text: str = ""
    #: Whether the user named it; else it was inferred.
    named: bool = False
    #: Of several outputs, the judged one: its key or name.
    output: str
    kind: Kind
    #: Whether labels were used.
    labels: bool
    #: Why this output, and why these labels or none.
    reason: str
    #: What one should know before trusting a score.
    warnings: list[str] = Field(default_factory=list)
    #: The scores that mean something here, the one that matters most first.
    metrics: list[Metric] = Field(default_factory=list)
    #: What the best answer that is the same for every sample would score.
    constant: dict[str, float] = Field(default_factory=dict)
    #: Labels of each class in the test part, where there are classes and not too many.
    classes: list[int] = Field(default_factory=list)
    #: Whether some classes have far fewer than others, by more than chance.
    unequal: bool = False

    @property
    def primary(self) -> Metric | None:
        """The score that matters most."""
        return self.metrics[0] if self.metrics else None


class PassRecord(Scored):
    """One pass and the graph after it."""

    name: str
    #: As a user would write it: `prune(ratio=0.5)`.
    text: str
    options: dict[str, Any]
    #: Of the plugin.
    version: str
    effect: Literal["exact", "lossy"]
    #: Kind of edit to count.
    edits: dict[str, int]
    seconds: float
    #: Whether the result came from the pass cache; `seconds` is then the time of the first run.
    cached: bool
    #: Versions and machine that the result was made with: earlier or elsewhere where `cached`.
    made: dict[str, str] = Field(default_factory=dict)
    ops: int
    parameters: int
    #: Multiply-accumulates for one sample.
    macs: int
    notes: list[Note] = Field(default_factory=list)
    #: Figures that the pass put on record, by name: `training` has every epoch.
    records: dict[str, Any] = Field(default_factory=dict)
    #: The pass that needs this one, where the user did not ask for it.
    inserted_for: str | None = None

    @property
    def idle(self) -> bool:
        """Whether a pass that was asked for changed nothing."""
        return self.inserted_for is None and not any(self.edits.values())


class TeacherRecord(Scored):
    """The model as it came, scored against the labels alone."""

    source: str
    ops: int
    parameters: int
    macs: int
    #: Of the graph and its weights.
    sha256: str
    #: What the user should know about how it was read.
    notes: list[Note] = Field(default_factory=list)


class DataRecord(Frozen):
    """The data set: its name, fingerprint and number of samples."""

    name: str
    fingerprint: str
    train: int
    calibration: int
    test: int
    labels: bool
    #: Samples that choices are made by, where the data bring such a part.
    validation: int = 0
    #: What the fingerprint is of: all of the content, or sizes, times and some samples.
    fingerprint_of: Literal["content", "samples"] = "content"


def now() -> datetime:
    """The time, to the second, as records have it."""
    return datetime.now(UTC).replace(microsecond=0)


class Record(Stored):
    """A whole run."""

    title: ClassVar[str] = "manifest"
    newest: ClassVar[int] = SCHEMA_VERSION

    schema_version: int = SCHEMA_VERSION
    compressc_version: str
    created: AwareDatetime = Field(default_factory=now)
    command: str
    seed: int
    #: Library to version; see `compressc.report.machine.library_versions`.
    versions: dict[str, str]
    #: See `compressc.report.machine.describe_machine`: no host name, no paths.
    machine: dict[str, str | int]
    teacher: TeacherRecord
    #: Open dimensions, beside the batch, that MACs are counted at.
    sizes: dict[str, int] = Field(default_factory=dict)
    #: None where there were no data to judge by.
    task: TaskRecord | None = None
    data: DataRecord | None = None
    passes: list[PassRecord] = Field(default_factory=list)
    files: list[FileRecord] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    wall_seconds: float

    @classmethod
    def upgraded(cls, content: Any) -> Any:
        """See `Stored`."""
        return upgraded(content)
