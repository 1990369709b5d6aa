"""Hostile and large .npz archives: one line before anything is unpacked, each sample held once."""

import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from compressc.data import files, npz, open_dataset
from compressc.errors import CompresscError

X = np.random.default_rng(0).normal(size=(200, 4)).astype("f4")
Y = np.arange(200) % 3


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(shape, descr="<f4") -> bytes:
    stream = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def zipped(path, method=zipfile.ZIP_STORED, zeros=0, **members):
    """An archive of raw members; `zeros` more MB go behind the member `z`."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
                stream.write(content)
                for _ in range(zeros if name == "z" else 0):
                    stream.write(bytes(1_000_000))
    return path


def encrypted(path):
    np.savez(path, x=X, y=Y)
    content, at = bytearray(path.read_bytes()), 0
    while (at := content.find(b"PK\x01\x02", at + 1)) > 0:
        content[at + 8] |= 1
    path.write_bytes(content)


def bomb(path):
    zipped(path, zipfile.ZIP_DEFLATED, 100, x=npy(X), z=header((25_000_000,)))


HOSTILE = {
    "a shape of 10^15": lambda p: zipped(p, x=header((10**15, 4)) + b"1234", y=npy(Y)),
    "a shape below 0": lambda p: zipped(p, x=header((-1, -4)) + bytes(16), y=npy(Y)),
    "a shape of 2^64": lambda p: zipped(p, x=header((2**62, 4)), y=npy(Y)),
    "an object dtype": lambda p: zipped(p, x=header((1,), "|O") + bytes(8), y=npy(Y)),
    "a structured dtype": lambda p: zipped(p, x=header((1,), [("a", "<f4", (4,))]) + bytes(16)),
    "open brackets": lambda p: zipped(
        p, x=b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"{'descr':" + b"(" * 8991
    ),
    "a header of 3 GB": lambda p: zipped(p, x=b"\x93NUMPY\x02\x00" + struct.pack("<I", 3 << 30)),
    "format 9": lambda p: zipped(p, x=b"\x93NUMPY\x09\x00" + npy(X)[8:]),
    "no array": lambda p: zipped(p, x=b"hello"),
    "one too short": lambda p: zipped(p, x=npy(X)[:-4], y=npy(Y)),
    "one too long": lambda p: zipped(p, x=npy(X) + b"....", y=npy(Y)),
    "encrypted": encrypted,
    "100 MB of zeros": bomb,
    "float64 beyond float32": lambda p: np.savez(p, x=np.full((200, 4), 1e300), y=Y),
    "no samples": lambda p: np.savez(p, x=X[:0], y=Y[:0]),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.filterwarnings("error")
def test_hostile_archives_end_in_one_line_and_take_no_memory(tmp_path, what):
    HOSTILE[what](tmp_path / "d.npz")
    tracemalloc.start()
    try:
        with pytest.raises(CompresscError) as caught:
            open_dataset(str(tmp_path / "d.npz"))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.code == "CC300"
    assert "d.npz" in caught.value.where


def test_a_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        file.writestr("x.npy", npy(X))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.npy", npy(X))
    with pytest.raises(CompresscError, match="different names"):
        open_dataset(tmp_path / "d.npz")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "link.npz").symlink_to("gone")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    kinds = {"pipe": "a pipe", "folder": "a folder", "link": "a link to nothing"}
    for name, got in (kinds | {"zero": "a device", "x" * 300: "File name too long"}).items():
        with pytest.raises(CompresscError) as caught:
            open_dataset(str(tmp_path / f"{name}.npz"))
        assert (caught.value.code, caught.value.got) == ("CC300", got)


def test_more_than_the_machine_has_is_said_first(tmp_path, monkeypatch):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    assert npz.available_memory() is None or npz.available_memory() > 1_000_000
    monkeypatch.setattr(files, "available_memory", lambda: 4000)
    with pytest.raises(CompresscError) as caught:
        open_dataset(tmp_path / "d.npz")
    assert caught.value.wanted == "the arrays fit in memory"
    monkeypatch.setattr(files, "available_memory", lambda: 200 * 4 * 4 + 200 * 8)
    assert len(open_dataset(tmp_path / "d.npz").train) == 160


@pytest.mark.parametrize("layout", ["undivided", "divided", "compressed", "columns first"])
def test_each_sample_is_in_memory_once(tmp_path, layout):
    x = np.random.default_rng(0).standard_normal((60_000, 50), dtype="f4")
    y = np.arange(60_000) % 10
    arrays = {"x": np.asfortranarray(x) if layout == "columns first" else x, "y": y}
    if layout == "divided":
        arrays = {"x_train": x[:50_000], "y_train": y[:50_000]}
        arrays |= {"x_test": x[50_000:], "y_test": y[50_000:]}
    (np.savez_compressed if layout == "compressed" else np.savez)(tmp_path / "d.npz", **arrays)
    tracemalloc.start()
    try:
        data = open_dataset(tmp_path / "d.npz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # blocks of 1 MB on their way; a file whose rows lie apart is read whole
    assert peak < x.nbytes + y.nbytes + (x.nbytes if layout == "columns first" else 0) + 8e6
    assert data.train.labels is not None
    if layout == "divided":
        assert data.train.inputs[0].equal(torch.from_numpy(x[:50_000]))
        assert data.test.inputs[0].equal(torch.from_numpy(x[50_000:]))
        return
    where = {row[:2].tobytes(): i for i, row in enumerate(x)}
    for part in (data.train, data.test):  # rows stay whole and keep their labels
        rows = torch.tensor([where[row[:2].numpy().tobytes()] for row in part.inputs[0][:500]])
        assert part.inputs[0][:500].equal(torch.from_numpy(x)[rows])
        assert part.labels[:500].equal(torch.from_numpy(y)[rows])


@pytest.mark.parametrize("columns_first", [False, True])
def test_rows_come_in_the_order_of_their_part(tmp_path, monkeypatch, columns_first):
    monkeypatch.setattr(npz, "BLOCK", 3 * 16)  # three rows
    np.savez(tmp_path / "d.npz", x=np.asfortranarray(X) if columns_first else X)
    parts = (np.array([150, 2, 9, 1]), np.array([7, 0]))
    with npz.open_archive(tmp_path / "d.npz") as archive:
        first, second = archive.divide("x", parts)
        assert np.array_equal(first, X[[150, 2, 9, 1]])
        assert np.array_equal(second, X[[7, 0]])
        assert np.array_equal(archive.read("x"), X)


def test_small_blocks_and_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "BLOCK", 7 * 16)  # seven rows; 200 are no multiple
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    small = open_dataset(tmp_path / "d.npz")
    monkeypatch.undo()
    assert small.fingerprint == open_dataset(tmp_path / "d.npz").fingerprint
    assert sorted(torch.cat([small.train.inputs[0], small.test.inputs[0]])[:, 0].tolist()) == (
        sorted(X[:, 0].tolist())
    )
