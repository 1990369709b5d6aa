"""The record: round trip, atomic writing, damaged and newer files, what it keeps to itself."""

import json
import math
import os
import re
import socket
import stat

import pytest
from report_records import digits_record

from compressc.errors import CompresscError
from compressc.measure import Fidelity, Spread
from compressc.report import SCHEMA_VERSION, LatencyRecord, Record
from compressc.report.machine import describe_machine, library_versions


def error_of(path) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        Record.read(path)
    assert caught.value.code == "CC403"
    assert str(path) in caught.value.where
    return caught.value


def test_round_trip(tmp_path):
    record = digits_record()
    record.write(tmp_path / "new" / "manifest.json")
    assert Record.read(tmp_path / "new" / "manifest.json") == record
    content = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert content["schema_version"] == SCHEMA_VERSION == 2
    assert content["created"] == "2026-11-24T12:00:00Z"
    assert content["passes"][1]["text"] == "prune(ratio=0.5)"


def test_a_broken_measurement_survives_as_valid_json(tmp_path):
    nan = Fidelity(
        max_abs_error=math.inf, relative_rms_error=math.inf, cosine=0, agreement=0, samples=1
    )
    record = digits_record()
    broken = record.files[0].model_copy(update={"proof": nan})
    record = record.model_copy(update={"files": [broken]})
    record.write(tmp_path / "m.json")
    json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail)
    assert Record.read(tmp_path / "m.json").files[0].proof.max_abs_error == math.inf


def test_records_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        digits_record().seed = 1


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CompresscError) as caught:
        digits_record().write(path)
    assert (caught.value.code, caught.value.got) == ("CC600", "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    digits_record().write(tmp_path / "m.json")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "m.json")]
    assert modes[0] == modes[1]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CompresscError) as caught:
        digits_record().write(tmp_path / "file" / "manifest.json")
    assert caught.value.code == "CC600"


def test_damaged_files(tmp_path):
    path = tmp_path / "m.json"
    error_of(path)  # missing
    whole = digits_record().model_dump_json()
    for content in ("", whole[:-5], "[]", "null", "{}", whole.replace('"lossy"', '"lousy"')):
        path.write_text(content)
        error_of(path)
    path.write_bytes(b"\xff\xfe\x00")
    error_of(path)
    path.write_text(whole.replace('"seed"', '"sead"'))
    assert re.search("se[ea]d", error_of(path).got)


def test_a_newer_schema_is_named_even_with_unknown_fields(tmp_path):
    content = json.loads(digits_record().model_dump_json())
    content |= {"schema_version": 3, "novelty": 1, "compressc_version": "9.9"}
    (tmp_path / "m.json").write_text(json.dumps(content))
    assert error_of(tmp_path / "m.json").got == "schema 3, by compressc 9.9"


def older(record) -> dict:
    """The record as schema 1 had it: two fields in place of scores, and no task."""
    content = json.loads(record.model_dump_json())
    for entry in (content["teacher"], *content["passes"], *content["files"]):
        scores = entry.pop("scores")
        entry |= {"accuracy": scores.get("accuracy"), "agreement": scores.get("agreement")}
    del content["teacher"]["agreement"]
    del content["task"], content["sizes"]
    return content | {"schema_version": 1}


def test_an_older_schema_still_reads(tmp_path):
    record, path = digits_record(), tmp_path / "m.json"
    path.write_text(json.dumps(older(record)))
    again = Record.read(path)
    assert again.teacher == record.teacher
    assert (again.passes, again.files) == (record.passes, record.files)
    assert [metric.name for metric in again.task.metrics] == ["accuracy", "agreement"]
    assert again.task.name == "classification"
    again.write(path)
    assert Record.read(path) == again
    bare = older(record)
    for entry in (bare["teacher"], *bare["passes"], *bare["files"]):
        entry["accuracy"] = None
    path.write_text(json.dumps(bare))
    unlabelled = Record.read(path)
    assert [metric.name for metric in unlabelled.task.metrics] == ["agreement"]
    assert unlabelled.passes[1].accuracy is None
    assert unlabelled.passes[1].agreement == record.passes[1].agreement


def test_a_manifest_without_the_name_of_its_task_still_reads(tmp_path):
    """As the first runs of schema 2 wrote it."""
    record, path = digits_record(), tmp_path / "m.json"
    content = json.loads(record.model_dump_json())
    for name in ("name", "text", "named", "classes", "unequal"):
        del content["task"][name]
    for metric in content["task"]["metrics"]:
        del metric["drop"]
    for entry in (content["teacher"], *content["passes"], *content["files"]):
        del entry["recalls"]
    for entry in content["passes"]:
        del entry["records"]
    path.write_text(json.dumps(content))
    assert Record.read(path) == record


@pytest.mark.parametrize("part", ["teacher", "passes", "files"])
def test_a_damaged_older_file_is_no_crash(tmp_path, part):
    content = older(digits_record())
    for wrong in (None, 3, [3], {"accuracy": "high"}):
        (tmp_path / "m.json").write_text(json.dumps(content | {part: wrong}))
        error_of(tmp_path / "m.json")


def test_latency_record_pairs_the_rounds():
    teacher, result = Spread.of([2.2, 6.0, 20.0]), Spread.of([1.0, 2.0, 5.0])
    entry = LatencyRecord.of(teacher, result, runtime="torch", batch=1, threads=1, precision="f32")
    assert entry.speedup == 3
    assert entry.speedup_low == pytest.approx(2.36)  # of the pairs 2.2, 3 and 4
    assert entry.speedup_high == pytest.approx(3.8)
    assert entry.verdict == "faster"
    swapped = Spread.of([5.0, 2.0, 1.0])  # other pairs: 0.44, 3, 20
    entry = LatencyRecord.of(teacher, swapped, runtime="torch", batch=1, threads=1, precision="f32")
    assert (entry.speedup, entry.verdict) == (3, "busy")


def test_machine_says_nothing_that_identifies_it():
    machine = describe_machine()
    assert {"cpu", "cores", "threads"} <= set(machine)
    text = json.dumps(machine)
    assert socket.gethostname() not in text
    assert "/" not in text.replace(str(machine["cpu"]), "")
    assert machine["cores"] == len(os.sched_getaffinity(0))


def test_versions():
    versions = library_versions()
    assert versions["torch"].startswith("2.")
    assert "python" in versions
