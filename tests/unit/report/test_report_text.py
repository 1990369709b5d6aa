"""Numbers in words."""

import math

import pytest
from report_records import digits_record, pass_record

from compressc.measure import Spread
from compressc.report import LatencyRecord, Note, text


@pytest.mark.parametrize(
    ("call", "value", "wanted"),
    [
        (text.count, 0, "0"),
        (text.count, 999, "999"),
        (text.count, 1000, "1.00 k"),
        (text.count, 206_922, "207 k"),
        (text.count, 999_499, "999 k"),
        (text.count, 999_600, "1.00 M"),
        (text.count, 4.1e9, "4.10 G"),
        (text.count, 7e15, "7000 T"),
        (text.size, 0, "0 B"),
        (text.size, 78_400, "78.4 kB"),
        (text.size, 1_234_567, "1.23 MB"),
        (text.percent, 0.98148, "98.15"),
        (text.percent, None, "-"),
        (text.percent, math.nan, "-"),
        (text.percent, 1.0, "100.00"),
        (text.ratio, 0.819, "0.82x"),
        (text.ratio, 9.996, "10.0x"),
        (text.ratio, 123.4, "123x"),
        (text.milliseconds, 0.02134, "0.0213"),
        (text.milliseconds, 12.34, "12.3"),
        (text.milliseconds, 1234.5, "1230"),
        (text.milliseconds, math.inf, "inf"),
        (text.milliseconds, 9.999, "10.0"),
        (text.seconds, 0.123, "0.12 s"),
        (text.seconds, 42.04, "42.0 s"),
        (text.seconds, 63.2, "1 min 03 s"),
        (text.seconds, 59.98, "1 min 00 s"),
        (text.seconds, 7500, "2 h 05 min"),
    ],
)
def test_numbers(call, value, wanted):
    assert call(value) == wanted


def test_points():
    assert text.points(0.9815, 0.987) == "-0.55"
    assert text.points(0.99, 0.987) == "+0.30"
    assert text.points(None, 0.9) == text.points(0.9, None) == text.points(math.nan, 0.9) == ""


def test_notes_are_grouped_within_a_pass():
    a = pass_record(
        "a",
        1,
        1,
        0.9,
        1.0,
        notes=[
            Note(op="x", text="rare"),
            Note(op="y", text="skipped: often"),
            Note(op="z", text="skipped: often"),
            Note(op="", text="whole"),
        ],
    )
    b = pass_record("b", 1, 1, 0.9, 1.0, notes=[Note(op="x", text="skipped: often")])
    record = digits_record()
    teacher = record.teacher.model_copy(update={"notes": [Note(op="", text="as it was read")]})
    record = record.model_copy(update={"teacher": teacher, "passes": [a, b]})
    groups = text.grouped_notes(record)
    assert [(g.step, g.text, g.ops) for g in groups] == [
        ("model", "as it was read", ("",)),
        ("a", "skipped: often", ("y", "z")),
        ("a", "rare", ("x",)),
        ("a", "whole", ("",)),
        ("b", "skipped: often", ("x",)),
    ]
    assert groups[1].names() == "y, z"
    assert groups[1].names(1) == "y and 1 more"
    assert groups[3].names() == ""


def test_a_record_without_notes_has_no_groups():
    quiet = pass_record("c", 1, 1, 0.9, 1.0)
    assert text.grouped_notes(digits_record().model_copy(update={"passes": [quiet]})) == []


def entry(teacher: list[float], result: list[float], disturbed: int = 0):
    return LatencyRecord.of(
        Spread.of(teacher, disturbed),
        Spread.of(result, disturbed),
        runtime="r",
        batch=1,
        threads=1,
        precision="f32",
    )


FASTER = entry([4.0, 4.2, 4.4], [2.0, 2.0, 2.0])
SAME = entry([4.0, 4.2, 4.4], [4.0, 4.4, 4.0])
BUSY = entry([4.0, 4.2, 4.4], [2.0, 2.0, 2.0], disturbed=2)


@pytest.mark.parametrize(
    ("entries", "headline", "cells"),
    [
        ([FASTER], "2.10x speed-up", ["2.10x (2.02-2.18)"]),
        ([SAME, FASTER, BUSY], "2.10x speed-up", ["no difference measured"]),
        ([SAME, BUSY], "no difference measured in latency", []),
        ([BUSY], "machine too busy to compare latency", ["machine busy"]),
        ([], None, []),
    ],
)
def test_only_claims_that_hold_are_in_the_headline(entries, headline, cells):
    record = digits_record()
    file = record.files[0].model_copy(update={"latency": entries})
    record = record.model_copy(update={"files": [file]})
    figures = [f"{f.value} {f.label}" for f in text.headline(record)]
    assert [f for f in figures if "speed" in f or "latency" in f] == [headline] * bool(headline)
    assert [text.speedup(e) for e in entries][: len(cells)] == cells


def test_headline_is_honest_about_the_worst():
    figures = {f.label: f for f in text.headline(digits_record())}
    assert figures["smaller"].value == "3.73 to 10.6x"
    assert figures["speed-up"].value.startswith("0.8")
    assert figures["points of accuracy"].value == "-0.74"  # 97.96 - 98.70, the ONNX file
    bare = digits_record().model_copy(update={"files": [], "passes": []})
    assert text.headline(bare) == []
