"""Split, Dataset and the protocol for data from elsewhere."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compressc.data import Dataset, Split, as_dataset
from compressc.errors import CompresscError


def split(n: int = 6, labels: bool = True, dtype: torch.dtype = torch.float32) -> Split:
    x = torch.arange(n * 2).reshape(n, 2).to(dtype)
    return Split((x,), torch.arange(n) % 3 if labels else None)


def error_of(call, *args) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        call(*args)
    assert caught.value.code == "CC300"
    assert "\n" not in str(caught.value)
    return caught.value


def test_split_counts_takes_and_keeps_pairs():
    whole = split(6)
    first = whole.take(4)
    assert (len(whole), len(first), len(whole.take(99))) == (6, 4, 6)
    assert first.inputs[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert first.labels.tolist() == [0, 1, 2, 0]


def test_labels_of_any_integer_dtype_become_int64():
    for dtype in (torch.int32, torch.uint8, torch.bool):
        assert Split((torch.zeros(2, 1),), torch.tensor([0, 1], dtype=dtype)).labels.tolist() == [
            0,
            1,
        ]


def test_batches_in_order():
    batches = list(split(7).batches(3))
    assert [len(b) for b in batches] == [3, 3, 1]
    assert torch.cat([b.inputs[0] for b in batches]).equal(split(7).inputs[0])


def test_a_selection_keeps_inputs_with_their_labels():
    index = torch.tensor([5, 0, 5, 3])
    for part in (split(6), split(9).subset(torch.arange(6)), split(6).subset(torch.arange(6))):
        rows = part.select(index)
        assert rows.inputs[0][:, 0].tolist() == [10, 0, 10, 6]
        assert rows.labels.tolist() == [2, 0, 2, 0]


def test_a_part_of_a_part_is_a_source_of_its_own():
    part = split(9).subset(torch.tensor([8, 2, 4, 6])).subset(torch.tensor([3, 1]))
    assert (len(part), part.has_labels, part.all_labels().tolist()) == (2, True, [0, 2])
    assert part.take(5).inputs[0][:, 0].tolist() == [12, 4]
    requests = [(torch.tensor([1]), None), (torch.tensor([0, 0]), None)]
    assert [b.labels.tolist() for b in part.stream(requests)] == [[2], [0, 0]]
    assert [len(b) for b in part.batches(1)] == [1, 1]
    assert not split(3, labels=False).subset(torch.tensor([1])).has_labels


def test_batch_of_nothing_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="at least one"):
        list(split().batches(0))


@pytest.mark.parametrize(
    ("inputs", "labels", "got"),
    [
        ((), None, "empty tuple"),
        (torch.zeros(3), None, "Tensor"),
        (([1, 2],), None, "list as input 0"),
        ((torch.zeros(3), torch.zeros(4)), None, "3 and 4"),
        ((torch.zeros(3),), torch.zeros(2, dtype=torch.int64), "2 labels for 3"),
        ((torch.zeros(3),), torch.zeros(3, dtype=torch.complex64), "complex64"),
        ((torch.zeros(0, 2),), None, "[0, 2]"),
        ((torch.tensor(1.0),), None, "float32[]"),
    ],
)
def test_split_says_what_does_not_fit(inputs, labels, got):
    assert got in error_of(Split, inputs, labels).got


def test_fingerprint_is_the_documented_hash_and_sees_every_byte():
    s = Split((torch.tensor([[1.0], [2.0]]),), torch.tensor([0, 1]))
    data = Dataset("a", s, s, s)
    digest = hashlib.sha256()
    for part in ("train", "calibration", "test"):
        digest.update(f"{part}:1:1;".encode())
        digest.update(b"torch.float32(2, 1)" + np.array([1, 2], "<f4").tobytes())
        digest.update(b"torch.int64(2,)" + np.array([0, 1], "<i8").tobytes())
    assert data.fingerprint == digest.hexdigest()
    assert Dataset("other name", s, s, s).fingerprint == data.fingerprint

    changed = Split((torch.tensor([[1.0], [2.0000002]]),), torch.tensor([0, 1]))
    reshaped = Split((torch.tensor([[[1.0]], [[2.0]]]),), torch.tensor([0, 1]))
    unlabelled = Split(s.inputs)
    others = {
        data.fingerprint,
        Dataset("a", s, s, changed).fingerprint,
        Dataset("a", changed, s, s).fingerprint,
        Dataset("a", reshaped, reshaped, reshaped).fingerprint,
        Dataset("a", s, unlabelled, s).fingerprint,
    }
    assert len(others) == 5


def test_fingerprint_of_other_dtypes_and_of_views():
    for dtype in (torch.bfloat16, torch.bool, torch.uint8, torch.int64):
        s = split(4, dtype=dtype)
        assert len(Dataset("a", s, s, s).fingerprint) == 64
    wide = torch.arange(12.0).reshape(3, 4)
    view, copy = Split((wide.t(),)), Split((wide.t().contiguous(),))
    assert Dataset("v", *[view] * 3).fingerprint == Dataset("c", *[copy] * 3).fingerprint


def test_has_labels_needs_train_and_test():
    with_, without = split(), split(labels=False)
    assert Dataset("a", with_, without, with_).has_labels
    assert not Dataset("a", without, with_, with_).has_labels
    assert not Dataset("a", with_, with_, without).has_labels


def test_dataset_refuses_nan_and_says_where():
    x = torch.zeros(3, 2)
    x[1, 1] = float("nan")
    error = error_of(Dataset, "mine", split(), split(), Split((x,)))
    assert "mine.test, input 0" in error.where
    assert error.got == "1 NaN or infinite values of 6"


def test_dataset_refuses_negative_classes_but_not_the_ignored_label():
    ok = Split((torch.zeros(2, 2),), torch.tensor([-100, 1]))
    Dataset("a", ok, ok, ok)
    wrong = Split((torch.zeros(2, 2),), torch.tensor([-1, 1]))
    assert error_of(Dataset, "a", ok, ok, wrong).got == "-1"


def test_labels_that_are_numbers_stay_numbers():
    x = torch.zeros(2, 2)
    targets = Split((x,), torch.tensor([-1.5, -100.0], dtype=torch.float64))
    assert targets.labels.dtype == torch.float32
    assert Dataset("a", targets, targets, targets).test.labels.tolist() == [-1.5, -100.0]
    broken = Split((x,), torch.tensor([0.5, float("inf")]))
    error = error_of(Dataset, "a", targets, targets, broken)
    assert (error.wanted, error.where) == ("the labels are finite numbers", "a.test")


def test_dataset_refuses_splits_unlike_each_other():
    image = Split((torch.zeros(2, 1, 8, 8),))
    other = Split((torch.zeros(2, 1, 9, 9),))
    Dataset("a", image, image, other)  # sizes may differ
    assert "float64" in error_of(Dataset, "a", image, image, Split((image.inputs[0].double(),))).got
    error_of(Dataset, "a", image, Split((torch.zeros(2, 64),)), image)
    error_of(Dataset, "a", image, Split((image.inputs[0],) * 2), image)


def test_as_dataset_takes_pairs_of_arrays():
    x, y = np.zeros((5, 3)), np.arange(5, dtype=np.uint8)
    obj = SimpleNamespace(
        train=((torch.zeros(5, 3), x), y), calibration=([x, x], None), test=Split((x_ := t(x), x_))
    )
    data = as_dataset(obj, "mine")
    assert (data.name, len(data.train.inputs), data.has_labels) == ("mine", 2, False)
    assert data.train.inputs[1].dtype == torch.float32
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert as_dataset(data, "renamed") is data


def t(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float32)


def test_as_dataset_says_what_is_missing_and_where():
    s = split()
    missing = error_of(as_dataset, SimpleNamespace(train=s, calibration=s), "m")
    assert missing.got == "SimpleNamespace with train, calibration"
    obj = SimpleNamespace(train=s, calibration=s, test=(1, 2, 3))
    error = error_of(as_dataset, obj, "m")
    assert (error.got, error.where) == ("int", "m.test, input 0")
    obj.test = (np.zeros((4, 2), np.float32), np.zeros(3, int))
    assert error_of(as_dataset, obj, "m").where == "m.test"
    obj.test = (np.array(["a", "b"]), None)
    assert "m.test, input 0" in error_of(as_dataset, obj, "m").where
    obj.test = (np.zeros((2, 2), np.float32), np.array([0j, 1j]))
    assert "labels of m.test" in error_of(as_dataset, obj, "m").where
    obj.test = ("a path", None)
    assert error_of(as_dataset, obj, "m").got == "str"


def test_a_mask_of_minus_infinities_is_an_input():
    """Additive attention masks: 0 where a token is seen, -inf where not."""
    mask = torch.zeros(4, 6).masked_fill(torch.eye(4, 6) > 0, float("-inf"))
    part = Split((torch.randn(4, 3), mask))
    assert torch.equal(Dataset("a", part, part, part).test.inputs[1], mask)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_mask_is_finite(value):
    """A logarithm of zero beside positive numbers is damage, and NaN always is."""
    x = torch.ones(4, 6)
    x[1, 2] = value
    part = Split((x,))
    with pytest.raises(CompresscError, match="CC300"):
        Dataset("a", part, part, part)
