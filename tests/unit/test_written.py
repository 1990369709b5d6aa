from __future__ import annotations

import numpy as np
import pytest
import torch

from compressc.data import open_part
from compressc.data.npz import write_npz
from compressc.errors import CompresscError
from compressc.measure import Spread
from compressc.written import fastest


def steady(*milliseconds: float) -> Spread:
    return Spread.of([ms for ms in milliseconds for _ in range(7)])


def test_the_fastest_is_faster_than_every_other():
    slow, quick = steady(2.0), steady(1.0)
    assert fastest({"a": slow, "b": quick}) == "b"
    assert fastest({"a": quick, "b": slow, "c": steady(3.0)}) == "a"


def test_nobody_is_the_fastest_inside_the_noise():
    assert fastest({"a": steady(1.0), "b": steady(1.02), "c": steady(5.0)}) is None
    assert fastest({"a": steady(1.0)}) is None


@pytest.mark.parametrize("packed", [False, True])
def test_an_undivided_file_is_one_part_in_its_order(tmp_path, packed):
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    save = np.savez_compressed if packed else np.savez
    save(tmp_path / "d.npz", x=x, y=np.arange(6))
    source = open_part(str(tmp_path / "d.npz"))
    assert torch.equal(source.take(6).inputs[0], torch.from_numpy(x))
    with pytest.raises(CompresscError, match="leave --part out"):
        open_part(str(tmp_path / "d.npz"), "test")


def test_an_undivided_folder_is_one_part(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    source = open_part(f"{tmp_path}/")
    assert source.take(5).inputs[0][:, 0].tolist() == [0, 2, 4, 6, 8]


def test_of_a_divided_file_the_test_part_unless_another_is_named(tmp_path):
    parts = {"x_train": np.zeros((4, 2), np.float32), "x_test": np.ones((3, 2), np.float32)}
    np.savez(tmp_path / "d.npz", **parts)
    assert len(open_part(str(tmp_path / "d.npz"))) == 3
    assert len(open_part(str(tmp_path / "d.npz"), "train")) == 4


def test_arrays_of_any_name_are_written(tmp_path):
    arrays = {"file": np.arange(3), "head.0": np.ones((2, 2), np.float16)}
    write_npz(tmp_path / "out", arrays)
    found = np.load(tmp_path / "out", allow_pickle=False)
    assert {name: found[name].tolist() for name in found} == {
        name: array.tolist() for name, array in arrays.items()
    }
