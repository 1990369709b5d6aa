"""What a run did: `Record` (written as `manifest.json`), shown on the terminal and as HTML."""

from compressc.backend.file_record import Failure, FileRecord, LatencyRecord
from compressc.report.html import write_html
from compressc.report.record import (
    DataRecord,
    Note,
    PassRecord,
    Record,
    TaskRecord,
    TeacherRecord,
)
from compressc.report.run_record import Recorder
from compressc.report.schema import SCHEMA_VERSION
from compressc.report.staging import make_writable, require_apart, staged
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
    "Recorder",
    "TaskRecord",
    "TeacherRecord",
    "make_writable",
    "render",
    "require_apart",
    "staged",
    "write_html",
]
