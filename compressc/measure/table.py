"""A table of layer latencies: `table.json`, what `layer_times` leaves on the device it ran on."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressc.errors import CompresscError
from compressc.measure.layer_times import SCHEMA, Timed

#: The largest file that is read.
_MOST_BYTES = 100_000_000


class Row(BaseModel):
    """What one layer takes at one set of sizes, in milliseconds; see `Timed`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layer: str
    sizes: tuple[int, ...]
    batch: int = Field(ge=1)
    ms: float = Field(ge=0)
    low_ms: float = Field(ge=0)
    high_ms: float = Field(ge=0)
    disturbed: int = Field(ge=0)


class LatencyTable(BaseModel):
    """Latencies of layers on one device, in one runtime.

    Attributes:
        schema_version: of the file.
        model: what the layers are of, for people.
        structure: hash of the layers; another model has another one.
        machine: processor, architecture and system of the device.
        runtime, runtime_version: that they ran in.
        threads: that it was given.
        rows: one for each layer and sizes.
        refused: layer that the runtime does not run at some size -> what it says.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    model: str = ""
    structure: str
    machine: dict[str, str]
    runtime: str
    runtime_version: str
    threads: int = Field(ge=1)
    rows: list[Row]
    refused: dict[str, str] = Field(default_factory=dict)

    @cached_property
    def _places(self) -> dict[tuple[str, tuple[int, ...]], Row]:
        return {(row.layer, row.sizes): row for row in self.rows}

    def row(self, layer: str, sizes: tuple[int, ...]) -> Row | None:
        """What a layer takes at these very sizes; None where that was not measured."""
        return self._places.get((layer, sizes))

    @property
    def device(self) -> str:
        """In a sentence: `AMD EPYC, ONNX Runtime 1.32.0, 1 thread`."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        name = self.machine.get("processor", "an unknown processor")
        return f"{name}, {self.runtime} {self.runtime_version}, {threads}"


def read_table(path: str | Path) -> LatencyTable:
    """Read what `measure.py` wrote.

    Raises:
        CompresscError: CC304 where the file is missing, damaged, or of another schema.
    """
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            raise _unreadable(path, "a file of more than 100 MB")
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "a file that is no text") from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise _unreadable(path, f"JSON of a {type(content).__name__}")
    version = content.get("schema_version")
    if isinstance(version, int) and version != SCHEMA:  # before its fields read as damage
        raise CompresscError(
            "CC304",
            f"a table of latencies has schema {SCHEMA}",
            got=f"schema {version}",
            where=str(path),
            hint="run compressc probe again, and its measure.py on the device",
        )
    try:  # strictly: a number as a text is damage
        return LatencyTable.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise _unreadable(path, f"{field}: {first['msg']}") from error


def timed(row: Row) -> Timed:
    """A row as it was measured."""
    return Timed(row.ms, row.low_ms, row.high_ms, row.disturbed)


def _unreadable(path: str | Path, got: str) -> CompresscError:
    return CompresscError(
        "CC304",
        "a table of latencies is the table.json that a probe's measure.py wrote",
        got=got,
        where=str(path),
        hint="run compressc probe, and its measure.py on the device",
    )
