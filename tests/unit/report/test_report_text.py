"""Numbers in words."""

import math

import pytest
from report_records import TASK, digits_record, pass_record

from compressc.measure import Spread
from compressc.report import LatencyRecord, Note, text
from compressc.report.charts import quality
from compressc.report.html import html
from compressc.report.warnings import warnings
from compressc.tasks.metric import ACCURACY, AGREEMENT, COSINE, PERPLEXITY, R2, TEACHER_R2


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


def judged(metrics, constant, teacher, *passes, warnings=()):
    """A record with these metrics, and scores of the teacher and of each pass."""
    record = digits_record()
    task = TASK.model_copy(
        update={"metrics": metrics, "constant": constant, "warnings": list(warnings)}
    )
    entries = [pass_record("a", 1, 1, 0.9, 1.0, scores=scores) for scores in passes]
    owner = record.teacher.model_copy(update={"scores": teacher})
    return record.model_copy(
        update={"task": task, "teacher": owner, "passes": entries, "files": []}
    )


def test_scores_are_shown_as_their_metric_asks():
    assert text.title(ACCURACY) == "accuracy %"
    assert (text.score(ACCURACY, 0.98148), text.with_unit(ACCURACY, 0.98148)) == (
        "98.15",
        "98.15 %",
    )
    assert text.change(ACCURACY, 0.98, 0.99) == "-1.00"
    assert text.title(TEACHER_R2) == "R^2 to teacher"
    assert (text.score(TEACHER_R2, 0.93), text.with_unit(TEACHER_R2, 0.93)) == ("0.9300", "0.9300")
    assert text.change(R2, 0.9, 0.95) == "-0.0500"
    assert text.score(R2, None) == text.score(R2, math.nan) == "-"
    assert text.change(R2, None, 0.9) == text.change(R2, 0.9, None) == ""


def test_headline_shows_the_main_score_of_the_task():
    def main(*given):
        return text.headline(judged(*given))[-1]

    both = [ACCURACY, AGREEMENT["class_scores"]]
    found = main(both, {}, {"accuracy": 0.99}, {"accuracy": 0.2}, {"accuracy": 0.95})
    assert (found.value, found.label) == ("-4.00", "points of accuracy")
    found = main([COSINE], {}, {}, {"cosine": 0.9876})
    assert (found.value, found.label) == ("0.9876", "cosine")
    found = main([R2, TEACHER_R2], {}, {"r2": 0.9}, {"r2": 0.8, "teacher_r2": 0.7})
    assert (found.value, found.label) == ("-0.1000", "R^2")
    assert found.detail == "0.9000 to 0.8000"
    assert text.headline(judged([COSINE], {}, {}, {})) == []


def test_a_score_that_a_constant_answer_gets_comes_with_a_warning():
    only = [AGREEMENT["class_scores"]]

    def said(metrics, constant, teacher, *passes):
        return warnings(judged(metrics, constant, teacher, *passes))

    assert said(only, {"agreement": 0.2}, {}, {"agreement": 0.2}) == [
        "the result is lost: agreement 20.00 %; the same answer for every sample gets 20.00 %"
    ]
    assert said(only, {"agreement": 0.2}, {}, {"agreement": 0.27})  # less than a tenth of the way
    assert said(only, {"agreement": 0.2}, {}, {"agreement": 0.29}) == []
    assert said(only, {"agreement": 0.2}, {}, {"agreement": 0.1}, {"agreement": 0.9}) == []
    assert "says nothing" in said(only, {"agreement": 1.0}, {}, {"agreement": 1.0})[0]
    teacher = said([ACCURACY], {"accuracy": 0.5}, {"accuracy": 0.52}, {"accuracy": 0.5})
    assert teacher == [
        "the teacher's accuracy is 52.00 %; the same answer for every sample gets 50.00 %"
    ]
    for broken in (-math.inf, math.nan):
        assert "lost" in said([TEACHER_R2], {"teacher_r2": 0.0}, {}, {"teacher_r2": broken})[0]
    assert said([TEACHER_R2], {"teacher_r2": 0.0}, {}, {"teacher_r2": 0.5}) == []


def test_warnings_name_passes_that_changed_nothing_and_what_the_task_says():
    record = judged([COSINE], {}, {}, warnings=["look here"])
    idle = pass_record("quant", 1, 1, 0.9, 1.0, edits={"erase": 0})
    helper = pass_record("simplify", 1, 1, 0.9, 1.0, edits={}, inserted_for="quant")
    record = record.model_copy(update={"passes": [helper, idle]})
    assert warnings(record) == ["look here", "quant changed nothing"]
    assert warnings(digits_record()) == []


def test_headline_is_honest_about_the_worst():
    figures = {f.label: f for f in text.headline(digits_record())}
    assert figures["smaller"].value == "3.73 to 10.6x"
    assert figures["speed-up"].value.startswith("0.8")
    assert figures["points of accuracy"].value == "-0.74"  # 97.96 - 98.70, the ONNX file
    bare = digits_record().model_copy(update={"files": [], "passes": []})
    assert text.headline(bare) == []


def with_classes(teacher, *files, counts=(90, 10), unequal=True):
    """A record whose teacher and files meet these shares of the labels of each class."""
    record = digits_record()
    task = TASK.model_copy(update={"classes": list(counts), "unequal": unequal})
    owner = record.teacher.model_copy(update={"recalls": teacher})
    made = [record.files[0].model_copy(update={"recalls": recalls}) for recalls in files]
    return record.model_copy(update={"task": task, "teacher": owner, "files": made})


def test_the_class_that_fell_most_is_named():
    record = with_classes([1.0, 0.9, None], [0.99, 0.4, None], counts=(90, 10, 0))
    fall = text.fall(record, record.files[0])
    assert (fall.index, fall.labels) == (1, 10)
    assert (fall.drop, fall.mean) == pytest.approx((0.5, 0.059))
    assert text.worst_class(record, record.files[0]) == "-50.00 (class 1)"
    assert text.worst_class(record, record.passes[0]) == "-"  # an older manifest has no classes


def test_a_class_that_is_lost_behind_the_mean_is_warned_of():
    # nine tenths are one class: of 98 % right, the other class is lost
    lost = with_classes([1.0, 0.9], [1.0, 0.9], [0.99, 0.1])
    (found,) = [line for line in warnings(lost) if "class" in line]
    assert found == (
        "class 1 falls by 80.0 points (10 labels), where all labels fall by 8.9: "
        "the score over all hides it"
    )
    html_text = html(lost)
    assert "worst class" in html_text
    assert "-80.00 (class 1)" in html_text


@pytest.mark.parametrize(
    ("teacher", "file", "counts"),
    [
        ([1.0, 0.9], [0.98, 0.85], (90, 10)),  # both fall a little
        ([1.0, 1.0], [0.5, 0.45], (90, 10)),  # all fall: the mean says so
        ([1.0, 1.0], [1.0, 0.5], (90, 2)),  # one label
        ([1.0, 1.0], [0.7, 1.0], (90, 10)),  # the frequent one falls: the score says so
        ([0.9, 0.5], [0.9, 0.9], (90, 10)),  # one rises
    ],
)
def test_no_class_is_warned_of_where_none_is_hidden(teacher, file, counts):
    record = with_classes(teacher, file, counts=counts)
    assert not [line for line in warnings(record) if "class" in line]


def test_classes_have_a_column_only_where_they_are_unequal():
    record = with_classes([1.0, 0.9], [1.0, 0.9], unequal=False)
    assert not text.unequal(record)
    assert "worst class" not in html(record)


def test_a_score_that_is_better_lower_is_read_so():
    metrics = [PERPLEXITY]
    lost = judged(metrics, {"perplexity": 27.0}, {"perplexity": 3.4}, {"perplexity": 26.0})
    assert any("the result is lost: perplexity 26.0000" in line for line in warnings(lost))
    fine = judged(metrics, {"perplexity": 27.0}, {"perplexity": 3.4}, {"perplexity": 5.0})
    assert not [line for line in warnings(fine) if "perplexity" in line]
    figures = [f"{f.value} {f.label}" for f in text.headline(fine)]
    assert "+1.6000 perplexity" in figures
    assert quality(fine) is not None
