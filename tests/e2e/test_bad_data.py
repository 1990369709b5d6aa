"""Data that go wrong, at the start or in the middle of a run: one coded line, nothing half done."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compressc
from compressc.cli import main
from compressc.data import files
from compressc.errors import CompresscError

SCRIPT = """
import os
import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

class Rows(Dataset):
    reads = 0
    def __init__(self, length=60): self.length = length
    def __len__(self): return self.length
    def __getitem__(self, index):
        Rows.reads += 1
        return np.full(4, index % 3 + index / 60, "f4"), index % 3

class Ragged(Rows):
    def __getitem__(self, index):
        return np.zeros(4 if index != 21 else 5, "f4"), index % 3

class Unreadable(Rows):
    def __getitem__(self, index):
        if index == 33:
            raise OSError("image 33 is no image\\nand more")
        return super().__getitem__(index)

class Shrinking(Rows):
    def __len__(self): return 60 if Rows.reads < 500 else 50

class Targets(Rows):
    def __getitem__(self, index):
        return super().__getitem__(index)[0], np.zeros((2, 5), "i8")

class Texts(Rows):
    def __getitem__(self, index):
        return "once upon a time", index % 3

class Deadly(Rows):
    def __getitem__(self, index):
        if get_worker_info() is not None and index == 9:
            os._exit(9)
        return super().__getitem__(index)

class Leaving(Rows):
    def __getitem__(self, index):
        raise SystemExit(0)

class NotANumber(Rows):
    def __getitem__(self, index):
        return np.full(4, np.nan if index == 40 else 0.0, "f4"), index % 3

class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(4), 0

class Empty(Rows):
    def __len__(self): return 0

def two_names():
    x = np.zeros((60, 4), "f4")
    return {"width": x, "height": x, "y": np.arange(60) % 3}
def half_parts(): return {"train": Rows(), "valid": Rows()}

calls = 0
def late_nan(x, generator):
    global calls
    calls += 1
    return x if calls < 150 else x * float("nan")
def nan(x, generator): return (x - 100).log()
def wider(x, generator): return torch.cat([x, x])
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier of four features."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with (tmp_path / "model.pt2").open("wb") as file:
        torch.export.save(
            torch.export.export(net, (torch.zeros(3, 4),), dynamic_shapes=shapes), file
        )
    return tmp_path / "model.pt2"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SCRIPT)
    return tmp_path / "mine.py"


def refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    """Run; it must end with the exit code of data or inputs and one line, and leave nothing."""
    command = [*map(str, arguments), "-o", str(out), "--no-cache", "--emit", "pt2", "--batches", ""]
    exit_code = main(command)
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert exit_code == (3 if error.startswith("[CC2") else 4)
    assert "Traceback" not in error
    assert not out.exists()
    return error


@pytest.mark.parametrize(
    ("function", "code", "says"),
    [
        ("Ragged", "CC302", ("float32[5]", "float32[4]", "sample 21", "pad")),
        ("Unreadable", "CC302", ("OSError: image 33 is no image)", "sample 33")),
        ("Leaving", "CC302", ("SystemExit", "sample 0")),
        ("NotANumber", "CC300", ("NaN", "mine.py:NotANumber")),
        ("Texts", "CC300", ("arrays hold numbers", "sample 0")),
        ("Endless", "CC300", ("Endless", "__len__")),
        ("Empty", "CC300", ("at least one sample", "none")),
        ("Targets", "CC301", ("labels fit an output", "labels [48, 2, 5]")),
        ("half_parts", "CC300", ("train, valid", "validation")),
        ("two_names", "CC204", ("width, height",)),
    ],
)
def test_a_data_set_that_is_wrong(model, script, tmp_path, capsys, function, code, says):
    data = f"{script}:{function}"
    passes = "distill(epochs=1)"
    error = refused(capsys, tmp_path / "out", model, "--passes", passes, "--data", data)
    assert error.startswith(f"[{code}]"), error
    for text in says:
        assert text in error


def test_a_source_that_shrinks_between_epochs(model, script, tmp_path, capsys):
    arguments = ("--passes", "distill(epochs=50)", "--data", f"{script}:Shrinking")
    error = refused(capsys, tmp_path / "out", model, *arguments)
    assert error.startswith("[CC302] the data set keeps its 60 samples (got 50)")


def test_a_worker_that_dies(model, script, tmp_path, capsys):
    arguments = ("--passes", "distill(epochs=1)", "--data", f"{script}:Deadly", "--workers", "1")
    started = time.monotonic()
    error = refused(capsys, tmp_path / "out", model, *arguments)
    assert error.startswith("[CC302] the workers that make samples live")
    assert "--workers 0" in error
    assert time.monotonic() - started < 60


def test_an_error_in_a_worker_names_the_sample(model, script, tmp_path, capsys):
    arguments = (
        "--passes",
        "distill(epochs=1)",
        "--data",
        f"{script}:Unreadable",
        "--workers",
        "2",
    )
    error = refused(capsys, tmp_path / "out", model, *arguments)
    assert "sample 33" in error


@pytest.mark.parametrize("function", ["nan", "late_nan", "wider"])
def test_augmentation_that_spoils_samples(model, script, tmp_path, capsys, function):
    arguments = ("--passes", "distill(epochs=9)", "--data", f"{script}:Rows")
    error = refused(
        capsys, tmp_path / "out", model, *arguments, "--augment", f"{script}:{function}"
    )
    assert error.startswith("[CC302] aug")
    assert f"mine.py:{function}" in error
    assert ("float32[2, 8]" if function == "wider" else "NaN or infinity") in error


def test_images_alone_can_be_flipped(model, script, tmp_path, capsys):
    arguments = ("--passes", "distill", "--data", f"{script}:Rows", "--augment", "flip")
    error = refused(capsys, tmp_path / "out", model, *arguments)
    assert error.startswith("[CC301] augmentation 'flip' moves images")


def test_a_file_that_is_cut_in_the_middle_of_a_run(model, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "IN_MEMORY", 0)
    x = np.random.default_rng(0).normal(size=(200, 4)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    epochs = []

    def cut(event):
        if event.kind == "epoch":
            epochs.append(event)
            with (tmp_path / "x.npy").open("r+b") as file:
                file.truncate(1000)

    with pytest.raises(CompresscError) as caught:
        compressc.compile(
            model, "distill(epochs=4)", data=str(tmp_path / "x.npy"), tell=cut, cache=None
        )
    assert caught.value.code == "CC302"
    assert caught.value.got.startswith("1,000 bytes, where a sample ends at")
    assert len(epochs) == 1


def test_what_is_no_fault_of_the_data_goes_through(model, script, tmp_path, capsys):
    """The same script, the same options, and nothing wrong."""
    out = tmp_path / "out"
    command = [str(model), "--passes", "distill(epochs=2)", "--data", f"{script}:Rows"]
    command += ["--workers", "1", "-o", str(out), "--no-cache", "--emit", "pt2", "--batches", ""]
    assert main(command) == 0, capsys.readouterr().err
    data = json.loads((out / "manifest.json").read_text())["data"]
    assert (data["train"], data["test"], data["fingerprint_of"]) == (48, 12, "samples")
