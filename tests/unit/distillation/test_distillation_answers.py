"""Kept answers: the same bytes in memory and in files, and nothing of a file that was cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from compressc.distillation import answers
from compressc.distillation.answers import FileRows, Form, Layout, aside, in_memory
from compressc.errors import CompresscError

#: Half floats, integers, and a value that holds nothing.
FORMS = (
    Form(torch.float16, (3, 2)),
    Form(torch.int64, ()),
    Form(torch.float32, (0,)),
    Form(torch.float32, (5,)),
)
LAYOUT = Layout("", 50, 2, FORMS)


def values(rows: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    numbers = [torch.randint(-99, 99, (rows, *form.shape), generator=draw) for form in FORMS]
    return [n.to(form.dtype) for n, form in zip(numbers, FORMS, strict=True)]


@pytest.mark.parametrize("room", [1 << 26, 0])
def test_rows_come_back_in_any_order(room, monkeypatch):
    monkeypatch.setattr(answers, "IN_MEMORY", room)
    store, wanted = aside(LAYOUT), values(100)
    assert all(isinstance(column, FileRows) for column in store._columns) == (not room)
    written = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:90]
    for rows in written.split(13):
        store.write(rows, [value[rows] for value in wanted])
    assert store.missing == 10
    for rows in (written[:7], written.sort().values, written[:1], written[:0]):
        assert store.has(rows).all()
        for got, value in zip(store.read(rows), wanted, strict=True):
            assert got.dtype == value.dtype
            assert torch.equal(got, value[rows])
    store.close()


def test_a_temporary_folder_without_room_costs_memory_and_not_the_run(monkeypatch):
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(answers, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    store, rows = aside(LAYOUT), torch.arange(5)
    store.write(rows, values(5))
    assert torch.equal(store.read(rows)[1], values(5)[1])
    assert not any(isinstance(column, FileRows) for column in store._columns)


def test_a_file_that_was_cut_is_an_error(tmp_path: Path):
    with (tmp_path / "value-0.bin").open("w+b", buffering=0) as file:
        rows = FileRows(file, 8)
        rows[torch.arange(10).numpy()] = in_memory(Layout("", 10, 1, (FORMS[1],)))._columns[0][
            torch.arange(10).numpy()
        ]
        file.truncate(70)
        assert rows[torch.tensor([7, 0]).numpy()].shape == (2, 8)
        with pytest.raises(CompresscError, match=r"CC303.*cut.*value-0\.bin"):
            rows[torch.tensor([8]).numpy()]
