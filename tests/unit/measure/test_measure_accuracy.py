"""Accuracy, agreement and predict, against counts made by hand."""

import math

import pytest
import torch

from compressc.data import Split
from compressc.errors import CompresscError
from compressc.measure import accuracy, agreement, balanced_accuracy, predict

NAN = float("nan")
LOGITS = torch.tensor([[2.0, 1, 0], [0, 3, 1], [0, 1, 2], [5, 1, 0]])  # classes 0, 1, 2, 0


def test_accuracy_counts_the_largest_logit():
    assert accuracy(LOGITS, torch.tensor([0, 1, 2, 0])) == 1.0
    assert accuracy(LOGITS, torch.tensor([0, 1, 0, 1])) == 0.5
    assert accuracy(LOGITS.to(torch.bfloat16), torch.tensor([1, 0, 1, 1])) == 0.0


def test_accuracy_over_positions_leaves_out_the_ignored():
    logits = torch.eye(3).repeat(2, 1, 1)  # [2, 3, 3]: classes 0, 1, 2 twice
    assert accuracy(logits, torch.tensor([[0, 1, -100], [0, 0, -100]])) == 0.75
    assert math.isnan(accuracy(logits, torch.full((2, 3), -100)))
    assert math.isnan(balanced_accuracy(logits, torch.full((2, 3), -100)))


def test_a_row_with_nan_is_wrong_even_where_argmax_would_be_lucky():
    logits = LOGITS.clone()
    logits[1, 1] = NAN  # argmax ranks NaN highest: class 1, the label
    assert accuracy(logits, torch.tensor([0, 1, 2, 0])) == 0.75
    assert agreement(logits, LOGITS) == 0.75
    assert agreement(logits, logits) == 0.75


def test_balanced_accuracy_is_the_mean_recall():
    logits = torch.tensor([[1.0, 0, 0]] * 10)  # a model that always says class 0
    labels = torch.tensor([0] * 8 + [1] * 2)
    assert accuracy(logits, labels) == 0.8
    assert balanced_accuracy(logits, labels) == 0.5
    gapped = torch.tensor([0, 0, 2, 2])  # class 1 does not occur: recalls 2/2 and 1/2
    assert balanced_accuracy(LOGITS[[0, 3, 2, 0]], gapped) == 0.75


def test_agreement():
    other = LOGITS.clone()
    other[0] = torch.tensor([0.0, 0, 9])
    assert agreement(LOGITS, LOGITS * 100) == 1.0
    assert agreement(LOGITS, other) == 0.75
    assert agreement(torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [-2.0]])) == 1.0
    assert agreement(torch.tensor([1.0, NAN]), torch.tensor([2.0, 2.0])) == 0.5


@pytest.mark.parametrize(
    "call",
    [
        lambda: accuracy(LOGITS, torch.zeros(3, dtype=torch.int64)),
        lambda: accuracy(LOGITS[:, :1], torch.zeros(4, dtype=torch.int64)),
        lambda: accuracy(LOGITS, torch.tensor([0, 1, 2, 3])),
        lambda: accuracy(torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
        lambda: agreement(LOGITS, LOGITS[:3]),
    ],
)
def test_shapes_that_do_not_fit(call):
    with pytest.raises(CompresscError) as caught:
        call()
    assert caught.value.code == "CC301"


def test_predict_runs_in_batches_without_gradients():
    weight = torch.tensor([[1.0, -1.0]], requires_grad=True)
    sizes = []

    def run(a, b):
        sizes.append(len(a))
        return (a + b) @ weight

    x = torch.arange(7.0)[:, None]
    out = predict(run, Split((x, x)), batch_size=3)
    assert sizes == [3, 3, 1]
    assert out[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert not out.requires_grad
    assert not out.is_inference()  # usable as a training target


@pytest.mark.parametrize(
    "run", [lambda x: x[:1], lambda x: (x, x), lambda x: x.sum(), lambda x: {"logits": x}]
)
def test_predict_refuses_what_is_not_one_row_per_sample(run):
    with pytest.raises(CompresscError) as caught:
        predict(run, Split((torch.zeros(4, 2),)))
    assert caught.value.code == "CC301"
