"""One result of a pass on disk: a bundle, facts about the run, and one digest over all of it.

What is read back is exactly what was stored under that key, or nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from compressc.errors import CompresscError
from compressc.ir import Graph, load_bundle, save_bundle
from compressc.ir.bundle import TEXT, WEIGHTS

FACTS = "facts.json"
#: Bytes that facts may take; what is larger is none of ours, and is not read.
_MOST = 1 << 26


class Facts(BaseModel):
    """What is known of a run of a pass.

    Attributes:
        text: the pass as it is written in a pass list.
        seconds: how long it ran.
        edits: editing method -> how often it was called.
        notes: (op, text) that the pass reported.
        records: figures that the pass put on record, by name.
        made: versions and machine that it ran with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    edits: dict[str, Annotated[int, Field(ge=0)]]
    notes: list[tuple[str, str]]
    records: dict[str, JsonValue] = {}
    made: dict[str, str]


class DamagedError(Exception):
    """An entry is not what was stored; the message says what is wrong with it."""


class _Entry(BaseModel):
    """The file of facts: sizes come first, so that nothing is read that cannot be right."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: str
    sizes: dict[str, int]
    digest: str
    facts: Facts


def write_entry(folder: Path, key: str, graph: Graph, facts: Facts) -> None:
    """Write a result into an empty folder.

    Raises:
        OSError, safetensors.SafetensorError: where the disk refuses.
    """
    save_bundle(graph, folder)
    sizes = {name: (folder / name).stat().st_size for name in (TEXT, WEIGHTS)}
    digest = _digest(folder, key, sizes, facts)
    entry = _Entry(key=key, sizes=sizes, digest=digest, facts=facts)
    (folder / FACTS).write_text(entry.model_dump_json(), encoding="utf-8")


def read_entry(folder: Path, key: str) -> tuple[Graph, Facts]:
    """Read a result that was stored under that key.

    Raises:
        DamagedError: where anything differs from what was stored.
        FileNotFoundError: where there is no entry.
    """
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise DamagedError("it is no folder")
    entry = _read_facts(folder)
    if entry.key != key:
        raise DamagedError("it was stored under another key")
    if entry.digest != _digest(folder, key, entry.sizes, entry.facts):
        raise DamagedError("its digest is another one")
    try:
        return load_bundle(folder), entry.facts
    except CompresscError as error:  # written by code that reads and writes another form
        raise DamagedError(str(error)) from error


def read_facts(folder: Path) -> Facts | None:
    """The facts of an entry, believed as they are: for a listing; None where there are none."""
    try:
        return _read_facts(folder).facts
    except (DamagedError, OSError):
        return None


def _read_facts(folder: Path) -> _Entry:
    with _regular(folder / FACTS) as file:
        if os.fstat(file.fileno()).st_size > _MOST:
            raise DamagedError(f"{FACTS} is too large")
        content = file.read(_MOST)
    try:
        return _Entry.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or FACTS
        raise DamagedError(f"{field}: {first['msg']}") from error


def _digest(folder: Path, key: str, sizes: dict[str, int], facts: Facts) -> str:
    """sha256 over key, facts, text and weights, each with its length in front."""
    if set(sizes) != {TEXT, WEIGHTS}:
        raise DamagedError("it does not list its files")
    digest = hashlib.sha256()
    for part in (key.encode(), facts.model_dump_json().encode()):
        digest.update(len(part).to_bytes(8) + part)
    for name in (TEXT, WEIGHTS):
        with _regular(folder / name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != sizes[name]:
                raise DamagedError(f"{name} has {size:,} bytes in place of {sizes[name]:,}")
            digest.update(size.to_bytes(8) + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _regular(path: Path) -> BufferedReader:
    """A file that is one: a pipe would wait for ever, a link leads elsewhere."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise DamagedError(f"{path.name}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError(f"{path.name} is no regular file")
    return os.fdopen(descriptor, "rb")
