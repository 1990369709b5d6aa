"""Records that are JSON files, which newer versions of compressc read, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from compressc.backend.file_record import Frozen
from compressc.errors import CompresscError
from compressc.report.atomic import write_text


class Stored(Frozen):
    """A record with a file of its own; `schema_version` grows with every change of its fields."""

    #: What the file is called in errors.
    title: ClassVar[str]
    #: The schema of today's fields.
    newest: ClassVar[int]

    @classmethod
    def upgraded(cls, content: Any) -> Any:
        """The content of a file of an older schema with the fields of today's."""
        return content

    def write(self, path: str | Path) -> None:
        """Write as JSON. The file appears whole or not at all.

        Raises:
            CompresscError: CC600 where the folder cannot be written.
        """
        write_text(Path(path), self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote.

        Raises:
            CompresscError: CC403 where the file is missing, damaged, or of a newer schema.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise cls._unreadable(path, str(error)) from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        # before the fields are looked at: those of a newer schema would read as damage
        if isinstance(version, int) and version > cls.newest:
            raise CompresscError(
                "CC403",
                f"the {cls.title} has schema {cls.newest} or older",
                got=f"schema {version}, by compressc {content.get('compressc_version', '?')}",
                where=str(path),
                hint="read it with that version of compressc",
            )
        try:
            return cls.model_validate(cls.upgraded(content))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            raise cls._unreadable(path, f"{field}: {first['msg']}") from error

    @classmethod
    def _unreadable(cls, path: str | Path, got: str) -> CompresscError:
        return CompresscError(
            "CC403",
            f"a {cls.title} is the JSON file that compressc wrote",
            got=got,
            where=str(path),
            hint="run compressc again to write a new one",
        )
