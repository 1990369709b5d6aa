"""Gates fail closed: a figure that is missing or no number has not passed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from report_records import digits_record

from compressc.errors import CompresscError
from compressc.gate import Gate
from compressc.report import Failure, Record
from compressc.tasks.metric import PERPLEXITY


def record(teacher: float | None, *files: float | None, **more: Any) -> Record:
    """A run whose files have these accuracies."""
    whole = digits_record()
    made = [
        whole.files[0].model_copy(update={"path": f"model.{i}", **_scored(value)})
        for i, value in enumerate(files)
    ]
    before = whole.teacher.model_copy(update=_scored(teacher))
    return whole.model_copy(update={"teacher": before, "files": made, "failures": [], **more})


def _scored(accuracy: float | None) -> dict[str, Any]:
    return {"scores": {} if accuracy is None else {"accuracy": accuracy}}


@pytest.mark.parametrize(
    ("most", "teacher", "files"),
    [
        (0.0, 0.9, [0.9]),
        (-0.0, 0.9, [0.95, 0.9]),
        (0.3, 0.9, [0.6]),  # 0.9 - 0.6 is 0.30000000000000004
        (1.0, 1.0, [0.0]),
        (0.01, 0.98, [0.99, 0.971]),
    ],
)
def test_passes(most: float, teacher: float, files: list[float]) -> None:
    Gate(most).judge(record(teacher, *files))


@pytest.mark.parametrize(
    ("most", "teacher", "files", "got"),
    [
        (0.0, 0.9, [0.9, 0.89], "0.0100: 0.9000 to 0.8900) at model.1"),
        (0.1, 0.9, [0.7, 0.5, 0.9], "0.4000: 0.9000 to 0.5000, and of 1 other files"),
        (0.1, 0.9, [0.7999], "0.1001: 0.9000 to 0.7999) at model.0"),
        (1.0, 0.9, [0.9, None], "inf: 0.9000 to no figure) at model.1"),
        (1.0, 0.9, [math.nan], "inf: 0.9000 to nan"),
        (1.0, math.nan, [0.9], "inf: nan to 0.9000"),
        (1.0, None, [0.9], "no figure to 0.9000"),
        (1.0, 0.9, [], "no file"),
        (1.0, 0.9, [-math.inf], "inf"),
        (1.0, 0.9, [math.inf], "inf"),
    ],
)
def test_fails_closed(
    most: float, teacher: float | None, files: list[float | None], got: str
) -> None:
    with pytest.raises(CompresscError, match="CC505") as caught:
        Gate(most).judge(record(teacher, *files))
    assert got in str(caught.value).replace("(got ", "")
    assert caught.value.exit_code == 6


def test_a_file_that_was_not_written_has_not_passed() -> None:
    failed = Failure(stage="backend onnx", code="CC504", message="must compute")
    with pytest.raises(CompresscError, match=r"CC505.*every file.*backend onnx: must compute"):
        Gate(1.0).judge(record(0.9, 0.9, failures=[failed]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_no_share_is_refused(value: float) -> None:
    with pytest.raises(CompresscError, match="CC100"):
        Gate(value)


def test_without_labels_the_likeness_to_the_teacher_is_held_against_1() -> None:
    task = digits_record().task
    assert task is not None
    likeness = [metric for metric in task.metrics if metric.against == "teacher"]
    made = record(0.9, 0.9, task=task.model_copy(update={"metrics": likeness}))
    (file,) = made.files
    for agreement, passes in ((0.96, True), (0.94, False)):
        scored = file.model_copy(update={"scores": {"agreement": agreement, "accuracy": 0.9}})
        judged = made.model_copy(update={"files": [scored]})
        if passes:
            Gate(0.05).judge(judged)
        else:
            with pytest.raises(CompresscError, match=r"agreement may drop by 0.05 \(got 0.0600"):
                Gate(0.05).judge(judged)


@pytest.mark.parametrize(("most", "after", "passes"), [(0.1, 21.9, True), (0.1, 22.1, False)])
def test_perplexity_may_rise_by_a_share_of_the_teacher_s(
    most: float, after: float, passes: bool
) -> None:
    made = record(0.9, 0.9)
    assert made.task is not None
    task = made.task.model_copy(update={"metrics": [PERPLEXITY, *made.task.metrics]})
    teacher = made.teacher.model_copy(update={"scores": {"perplexity": 20.0, "accuracy": 0.5}})
    files = [made.files[0].model_copy(update={"scores": {"perplexity": after, "accuracy": 0.5}})]
    judged = made.model_copy(update={"task": task, "teacher": teacher, "files": files})
    if passes:
        Gate(most).judge(judged)
    else:
        wanted = r"perplexity may rise by 0.1 of the teacher's \(got 0.1050: 20.0000 to 22.1000"
        with pytest.raises(CompresscError, match=wanted):
            Gate(most).judge(judged)


def test_a_run_without_a_score_has_not_passed() -> None:
    with pytest.raises(CompresscError, match="CC505"):
        Gate(1.0).judge(record(0.9, 0.9, task=None))


def test_data_are_required_only_for_a_gate() -> None:
    with pytest.raises(CompresscError, match="CC105"):
        Gate(0.5).require_score(None)
    Gate(strict=True).require_score(None)


def test_what_did_not_come_about_has_an_exit_code_of_its_own() -> None:
    Gate().judge(record(0.9, 0.9))
    one = Failure(stage="latency of onnx at batch 64", code="CC601", message="out of memory")
    two = Failure(stage="teacher as onnx", code="CC503", message="cannot be written")
    with pytest.raises(CompresscError, match=r"CC700.*batch 64: out of memory\)") as caught:
        Gate().judge(record(0.9, 0.9, failures=[one]))
    assert caught.value.exit_code == 8
    with pytest.raises(CompresscError, match="and 1 more"):
        Gate(1.0).judge(record(0.9, 0.9, failures=[one, two]))


def test_strict_names_a_pass_that_changed_nothing() -> None:
    passes = digits_record().passes
    idle = passes[1].model_copy(update={"edits": {}})
    helper = passes[0].model_copy(update={"edits": {"erase": 0}})  # inserted for quant
    Gate(strict=True).judge(record(0.9, 0.9, passes=[helper, *passes[1:]]))
    Gate().judge(record(0.9, 0.9, passes=[idle]))
    with pytest.raises(CompresscError, match=r"CC700.*pass prune\(ratio=0.5\): it changed nothing"):
        Gate(strict=True).judge(record(0.9, 0.9, passes=[idle]))
