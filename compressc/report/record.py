"""The record of a run: every fact and measurement, in a form that outlives the program.

`manifest.json` is this model as JSON. `SCHEMA_VERSION` grows with every change of the fields.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from compressc.backend.file_record import Failure, FileRecord, Frozen
from compressc.errors import CompresscError
from compressc.report.atomic import write_text

SCHEMA_VERSION = 1


class Note(Frozen):
    """Something a pass did not do, and why."""

    #: Name of the op, or "" for the whole graph.
    op: str
    text: str


class PassRecord(Frozen):
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
    accuracy: float | None = None
    agreement: float | None = None
    notes: list[Note] = Field(default_factory=list)
    #: The pass that needs this one, where the user did not ask for it.
    inserted_for: str | None = None


class TeacherRecord(Frozen):
    """The model as it came."""

    source: str
    ops: int
    parameters: int
    macs: int
    accuracy: float | None = None
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


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Record(Frozen):
    """A whole run."""

    schema_version: int = SCHEMA_VERSION
    compressc_version: str
    created: AwareDatetime = Field(default_factory=_now)
    command: str
    seed: int
    #: Library to version; see `compressc.report.machine.library_versions`.
    versions: dict[str, str]
    #: See `compressc.report.machine.describe_machine`: no host name, no paths.
    machine: dict[str, str | int]
    teacher: TeacherRecord
    data: DataRecord | None = None
    passes: list[PassRecord] = Field(default_factory=list)
    files: list[FileRecord] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    wall_seconds: float

    def write(self, path: str | Path) -> None:
        """Write as JSON. The file appears whole or not at all.

        Raises:
            CompresscError: CC600 where the folder cannot be written.
        """
        write_text(Path(path), self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """Read what `write` wrote.

        Raises:
            CompresscError: CC403 where the file is missing, damaged, or of a newer schema.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _unreadable(path, str(error)) from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        # before the fields are looked at: those of a newer schema would read as damage
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise CompresscError(
                "CC403",
                f"the manifest has schema {SCHEMA_VERSION} or older",
                got=f"schema {version}, by compressc {content.get('compressc_version', '?')}",
                where=str(path),
                hint="read it with that version of compressc",
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            raise _unreadable(path, f"{field}: {first['msg']}") from error


def _unreadable(path: str | Path, got: str) -> CompresscError:
    return CompresscError(
        "CC403",
        "a manifest is the JSON file that compressc wrote",
        got=got,
        where=str(path),
        hint="run compressc again to write a new one",
    )
