"""What a run did: `Record` (written as `manifest.json`), shown on the terminal and as HTML."""

from compressc.report.html import write_html
from compressc.report.record import (
    SCHEMA_VERSION,
    DataRecord,
    Failure,
    FileRecord,
    LatencyRecord,
    Note,
    PassRecord,
    Record,
    TeacherRecord,
)
from compressc.report.terminal import render

__all__ = [
    "SCHEMA_VERSION",
    "DataRecord",
    "Failure",
    "FileRecord",
    "LatencyRecord",
    "Note",
    "PassRecord",
    "Record",
    "TeacherRecord",
    "render",
    "write_html",
]
