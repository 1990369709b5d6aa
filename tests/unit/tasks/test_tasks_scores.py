"""Scores of outputs against labels and against the teacher; expectations are worked out by hand."""

import math

import pytest
import torch

from compressc.errors import CompresscError
from compressc.tasks import NO_LABEL, Response, SettledTask, constant_scores, metrics, score
from compressc.tasks.known import of_kind

NAN = float("nan")
#: The classes are 0, 1, 2, 0.
LOGITS = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 1, 5], [1, 0, 0]])


def task(kind, dim=1, labels=False, signs=False, threshold=0.0):
    judged = Response(0, "out", kind, dim, "", kind, dim, threshold)
    return SettledTask(of_kind(kind), judged, (judged,), labels=labels, signs=signs)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (task("class_scores", labels=True), ["accuracy", "balanced_accuracy", "agreement"]),
        (task("class_scores"), ["agreement"]),
        (task("independent_scores", labels=True), ["accuracy", "f1", "agreement"]),
        (task("values", labels=True), ["r2", "mae", "teacher_r2"]),
        (task("values"), ["teacher_r2"]),
        (task("values", dim=None, signs=True), ["teacher_r2", "agreement"]),
        (task("embedding"), ["cosine", "retrieval"]),
        (task("ids", dim=None), ["agreement"]),
    ],
)
def test_each_kind_has_the_scores_that_mean_something(given, names):
    assert [metric.name for metric in metrics(given)] == names


def test_class_scores():
    both = task("class_scores", labels=True)
    labels = torch.tensor([0, 1, 0, NO_LABEL])
    teacher = torch.eye(3)[[0, 2, 2, 0]]
    assert score(both, LOGITS, labels, teacher) == pytest.approx(
        {"accuracy": 2 / 3, "agreement": 0.75}
    )
    assert score(both, LOGITS, None, teacher) == {"agreement": 0.75}
    nobody = torch.full((4,), NO_LABEL)
    assert score(both, LOGITS, nobody, teacher) == {"agreement": 0.75}


def test_the_class_dimension_is_the_task_s():
    # one row of two pixels: classes first; along the last dimension the best are columns
    pixels = torch.tensor([[[1.0, 9.0], [2.0, 3.0], [0.0, 0.0]]])  # classes 1 and 0
    other = torch.tensor([[[0.0, 1.0], [5.0, 0.0], [0.0, 0.0]]])  # classes 1 and 0, too
    assert score(task("class_scores", dim=1), pixels, None, other) == {"agreement": 1.0}
    labels = torch.tensor([[1, 1]])
    given = task("class_scores", dim=1, labels=True)
    assert score(given, pixels, labels, other)["accuracy"] == 0.5


def test_a_row_with_nan_is_wrong_even_where_argmax_would_be_lucky():
    broken = LOGITS.clone()
    broken[1, 1] = NAN  # argmax ranks NaN highest: class 1, the label
    given = task("class_scores", labels=True)
    found = score(given, broken, torch.tensor([0, 1, 2, 0]), LOGITS)
    assert found == {"accuracy": 0.75, "agreement": 0.75}
    assert score(given, broken, None, broken) == {"agreement": 0.75}
    one = torch.tensor([[NAN], [1.0]])
    assert score(task("independent_scores"), one, None, one) == {"agreement": 0.5}


def test_independent_scores_are_cut_at_their_threshold():
    output = torch.tensor([[0.2, 0.9], [0.6, 0.4]])
    teacher = torch.tensor([[0.3, 0.8], [0.4, 0.7]])
    labels = torch.tensor([[0, 1], [NO_LABEL, 1]])
    given = task("independent_scores", labels=True, threshold=0.5)
    assert score(given, output, labels, teacher) == pytest.approx(
        {"accuracy": 2 / 3, "f1": 2 / 3, "agreement": 0.5}
    )
    assert score(task("independent_scores"), output, None, teacher) == {"agreement": 1.0}


def test_values_are_scored_by_the_variance_explained():
    teacher = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    output = torch.tensor([[1.0, 10.0], [3.0, 20.0]])
    # columns vary by 2 and 200 about their means; the error is 100
    assert score(task("values"), output, None, teacher) == {
        "teacher_r2": pytest.approx(1 - 100 / 202)
    }
    worse = score(task("values"), -teacher, None, teacher)["teacher_r2"]
    assert worse < 0
    assert score(task("values"), output * NAN, None, teacher) == {"teacher_r2": -math.inf}
    assert score(task("values"), output, None, torch.ones(2, 2)) == {}  # nothing to explain


def test_targets_of_values_may_be_minus_a_hundred():
    targets = torch.tensor([-100.0, 100.0])
    given = task("values", dim=None, labels=True)
    found = score(given, torch.tensor([-100.0, 0.0]), targets, targets)
    assert found == {"r2": 0.5, "teacher_r2": 0.5, "mae": 50.0}


def test_numbers_of_both_signs_are_scored_as_answers_too():
    teacher = torch.tensor([1.0, -2.0, 3.0, -4.0])
    output = torch.tensor([9.0, -9.0, -9.0, -9.0])
    assert score(task("values", None, signs=True), output, None, teacher)["agreement"] == 0.75


def test_embeddings_are_scored_by_their_direction():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    output = torch.tensor([[5.0, 0.0], [1.0, 0.0]])
    assert score(task("embedding"), output, None, teacher) == {"cosine": 0.5}
    assert score(task("embedding"), output * NAN, None, teacher) == {"cosine": 0.0}


def test_ids_are_scored_by_how_many_are_met():
    teacher = torch.tensor([[3, 4], [5, 6]])
    output = torch.tensor([[3, 4], [5, 7]])
    assert score(task("ids", None), output, None, teacher) == {"agreement": 0.75}


def test_what_a_constant_answer_scores():
    labels = torch.tensor([1, 1, 1, NO_LABEL])
    given = task("class_scores", labels=True)
    # classes 0, 1, 2, 0: half of the teacher's answers are 0
    assert constant_scores(given, labels, LOGITS) == {"accuracy": 1.0, "agreement": 0.5}
    bits = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    assert constant_scores(task("independent_scores"), None, bits) == {"agreement": 0.75}
    assert constant_scores(task("values"), None, LOGITS) == {"teacher_r2": 0.0}
    # the mean of two unit vectors at a right angle is as long as half a diagonal
    right = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert constant_scores(task("embedding"), None, right) == {
        "cosine": pytest.approx(math.sqrt(0.5))
    }


def test_outputs_of_another_shape_are_an_error():
    with pytest.raises(CompresscError, match="shape of the teacher's") as error:
        score(task("class_scores"), LOGITS, None, LOGITS[:3])
    assert error.value.code == "CC301"


def test_the_judged_output_is_picked_among_all_that_come_back():
    first, second = torch.zeros(1), torch.ones(1)
    given = SettledTask(of_kind("values"), Response(1, "b", "values", None, "", "values", None), ())
    assert given.outputs({"a": first, "none": None, "b": [second]}) == {"b": second}
    with pytest.raises(CompresscError, match="returns output 'b'"):
        given.outputs(first)
