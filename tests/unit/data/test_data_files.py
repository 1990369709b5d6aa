"""Data from .npz files: the layouts that work and every mistake's message."""

import numpy as np
import pytest
import torch

from compressc.data import open_dataset
from compressc.errors import CompresscError

X = np.arange(100 * 3, dtype=np.float32).reshape(100, 3)
Y = np.repeat(np.arange(4), 25)


def save(tmp_path, **arrays):
    np.savez(tmp_path / "d.npz", **arrays)
    return str(tmp_path / "d.npz")


def error_of(spec: str) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        open_dataset(spec)
    assert caught.value.code == "CC300"
    return caught.value


def test_x_and_y_are_divided_80_to_20_by_class(tmp_path):
    data = open_dataset(save(tmp_path, x=X, y=Y))
    assert (data.name, len(data.train), len(data.test), len(data.calibration)) == (
        "d.npz",
        80,
        20,
        80,
    )
    assert data.test.labels.bincount().tolist() == [5, 5, 5, 5]
    for part in (data.train, data.test):  # labels still belong to their rows
        rows = (part.inputs[0][:, 0] / 3).long()
        assert part.labels.equal(torch.from_numpy(Y)[rows])
    both = torch.cat([data.train.inputs[0], data.test.inputs[0]])[:, 0]
    assert sorted(both.tolist()) == X[:, 0].tolist()
    assert open_dataset(tmp_path / "d.npz").fingerprint == data.fingerprint


def test_without_labels(tmp_path):
    data = open_dataset(save(tmp_path, x=X))
    assert (data.has_labels, data.test.labels, len(data.test)) == (False, None, 20)


def test_several_inputs_keep_their_order(tmp_path):
    ids = np.arange(100, dtype=np.int64)
    names = {f"x{i}": ids[:, None] * 100 + i for i in reversed(range(11))}
    data = open_dataset(save(tmp_path, **names))
    assert [int(x[0, 0]) % 100 for x in data.train.inputs] == list(range(11))


def test_explicit_parts_are_not_divided_again(tmp_path):
    data = open_dataset(
        save(tmp_path, x_train=X[:60], y_train=Y[:60], x_test=X[60:], y_test=Y[60:])
    )
    assert data.train.inputs[0].equal(torch.from_numpy(X[:60]))
    assert data.test.labels.equal(torch.from_numpy(Y[60:]))
    two = open_dataset(save(tmp_path, x0_train=X, x1_train=X, x0_test=X, x1_test=X, y_test=Y))
    assert (len(two.test.inputs), two.has_labels) == (2, False)


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("f8", torch.float32),
        ("f2", torch.float16),
        (">f4", torch.float32),
        ("u1", torch.uint8),
        ("u2", torch.int64),
        (">i4", torch.int32),
        ("?", torch.bool),
    ],
)
def test_dtypes_become_what_models_take(tmp_path, dtype, wanted):
    values = np.array([[0], [1], [1], [0]]).astype(dtype)
    x = open_dataset(save(tmp_path, x=values)).train.inputs[0]
    assert x.dtype == wanted
    assert set(x.double().flatten().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("arrays", "got", "hint"),
    [
        ({"y": Y}, "keys y", "x_train"),
        ({"x": X, "lable": Y}, "key 'lable'", "leave it out"),
        ({"x": X, "y": Y, "label": Y}, "y and label", ""),
        ({"X": X}, "key 'X'", "'x'"),
        ({"x": X, "y": Y[:99]}, "99 labels for 100", ""),
        ({"x0": X, "x1": X[:7]}, "100 and 7 samples", ""),
        ({"x0": X, "x2": X}, "keys x0, x2", ""),
        ({"x": X, "x0": X}, "keys x, x0", ""),
        ({"x": X, "x_test": X}, "x, x_test", ""),
        ({"x_train": X, "y_train": Y}, "x_train, y_train", ""),
        ({"x": X, "y": Y * 1j}, "dtype complex", ""),
        ({"x": np.array(["a", "b"])}, "dtype <U1", "encode"),
        ({"x": np.array([1j, 2j])}, "dtype complex128", ""),
        ({"x": np.float32(1)}, "float32[]", ""),
        ({"x": X[:1]}, "1", "x_train"),
        ({"x": X[:0]}, "float32[0, 3]", ""),
        ({"x": X, "y": Y - 1}, "-1", "0, 1, 2"),
        ({}, "keys none", ""),
    ],
)
def test_mistakes_in_the_arrays(tmp_path, arrays, got, hint):
    error = error_of(save(tmp_path, **arrays))
    assert got in error.got
    assert hint in error.hint
    assert "d.npz" in error.where


def test_nan_and_infinity(tmp_path):
    for value in (np.nan, np.inf):
        x = X.copy()
        x[3, 1] = value
        assert "NaN or infinite" in error_of(save(tmp_path, x=x, y=Y)).got


def test_pickled_objects_are_refused_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    error = error_of(save(tmp_path, x=np.array([Bomb(), Bomb()], dtype=object)))
    assert error.got == "pickled Python objects"
    assert not (tmp_path / "ran").exists()


def test_missing_and_damaged_files(tmp_path):
    assert error_of(str(tmp_path / "none.npz")).got == "no such file"
    assert error_of(str(tmp_path) + "/.npz").got == "no such file"
    whole = (tmp_path / "d.npz") if save(tmp_path, x=X) else None
    content = whole.read_bytes()
    middle = len(content) // 2
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, X)
    import pickle

    damaged = {
        "empty": b"",
        "text": b"x,y\n1,2\n",
        "short": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "array": (tmp_path / "one.npz").read_bytes(),
        "pickle": pickle.dumps([1, 2]),
    }
    for name, value in damaged.items():
        (tmp_path / f"{name}.npz").write_bytes(value)
        error = error_of(str(tmp_path / f"{name}.npz"))
        assert name in error.where
