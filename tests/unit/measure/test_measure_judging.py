"""Scores over a whole part: batch by batch, with the teacher's answers beside them."""

import pytest
import torch

from compressc.data import Split
from compressc.errors import CompresscError
from compressc.measure import Judge, judging
from compressc.tasks import Response, SettledTask
from compressc.tasks.known import of_kind

JUDGED = Response(0, "out", "class_scores", 1, "", "class_scores", 1)
TASK = SettledTask(of_kind("class_scores"), JUDGED, (JUDGED,), labels=True)
#: 700 one-hot rows whose class is their number modulo 3; a third of the labels says otherwise.
CLASSES = torch.arange(700) % 3
X = torch.eye(3)[CLASSES]
LABELS = torch.where(torch.arange(700) % 7 == 0, (CLASSES + 1) % 3, CLASSES)


def wrong_on_zero(x):
    return x + x[:, :1] * torch.tensor([[0.0, 2.0, 0.0]])


def test_scores_of_all_batches_are_those_of_all_samples():
    sizes = []

    def run(x):
        sizes.append(len(x))
        return wrong_on_zero(x)

    judge = Judge(TASK, lambda x: x, Split((X,), LABELS))
    answers = torch.where(CLASSES == 0, 1, CLASSES)
    found = judge.of(run).values()
    assert found["accuracy"] == pytest.approx(float((answers == LABELS).double().mean()))
    assert found["agreement"] == pytest.approx(float((answers == CLASSES).double().mean()))
    assert sizes == [256, 256, 188]
    own = judge.of_teacher.values()
    assert own["accuracy"] == pytest.approx(float((CLASSES == LABELS).double().mean()))
    assert own["agreement"] == 1.0


@pytest.mark.parametrize(
    ("kept", "calls"), [(1 << 28, 4), (256 * 12, 6), (256 * 12 + 188 * 12, 6), (0, 7)]
)
def test_the_teacher_runs_once_where_its_outputs_fit(monkeypatch, kept, calls):
    monkeypatch.setattr(judging, "KEPT", kept)
    ran = []
    judge = Judge(TASK, lambda x: ran.append(len(x)) or x, Split((X,), LABELS))
    first, second = judge.of(wrong_on_zero).values(), judge.of(wrong_on_zero).values()
    assert first == second
    assert len(ran) == calls  # one looks at sizes; 3 batches, once or twice


def test_large_outputs_run_in_small_batches(monkeypatch):
    monkeypatch.setattr(judging, "ROOM", 30)  # ten rows of three numbers
    sizes = []
    Judge(TASK, lambda x: x, Split((X[:25],), LABELS[:25])).of(lambda x: sizes.append(len(x)) or x)
    assert sizes == [10, 10, 5]


@pytest.mark.parametrize("run", [lambda x: x[:1], lambda x: x.sum(), lambda x: "nothing"])
def test_what_is_not_one_row_per_sample_is_refused(run):
    with pytest.raises(CompresscError) as caught:
        Judge(TASK, run, Split((torch.zeros(4, 3),))).of(run)
    assert caught.value.code == "CC301"
