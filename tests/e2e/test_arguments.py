"""Arguments that cannot be meant: refused in one line, before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressc.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny exported program m.pt2 of inputs f32[b,4], and data d.npz for it."""
    made = tmp_path_factory.mktemp("arguments")
    module = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (torch.randn(3, 4),), dynamic_shapes=batch)
    torch.export.save(program, made / "m.pt2")
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("f4")
    np.savez(made / "d.npz", x=x, y=np.arange(60) % 3)
    return made


LONG = "x" * 300
BASE = ["m.pt2", "-p", "prune", "--emit", "pt2", "--batches", ""]
CASES = {
    "batch of 10^10": ([*BASE, "--batches", "1" + "0" * 10], "CC100"),
    "batch of 10^30": ([*BASE, "--batches", "1" + "0" * 30], "CC100"),
    "batch with an exponent": ([*BASE, "--batches", "1e9"], "CC100"),
    "inspect --batch": (["inspect", "m.pt2", "--batch", "1" + "0" * 30], "CC100"),
    "seed of 10^30": ([*BASE, "--seed", "1" + "0" * 30], "CC100"),
    "seed below 0": ([*BASE, "--seed", "-1"], "CC100"),
    "long -o": ([*BASE, "-o", LONG], "CC600"),
    "null in -o": ([*BASE, "-o", "a\0b"], "CC600"),
    "empty -o": ([*BASE, "-o", ""], "CC100"),
    "empty --cache": ([*BASE, "--cache", ""], "CC100"),
    "long --data": ([*BASE, "--data", f"{LONG}.npz"], "CC300"),
    "an infinite weight": (["m.pt2", "-p", "distill(features=1e400)", "--data", "d.npz"], "CC102"),
    "an infinite decay": (["m.pt2", "-p", "distill(decay=1e400)", "--data", "d.npz"], "CC102"),
    "NaN": (["m.pt2", "-p", "prune(ratio=nan)"], "CC102"),
    "50 kB": (["m.pt2", "-p", "a" * 50_000], "CC101"),
    "escape codes": (["m.pt2", "-p", "\x1b[31mred\x1b[0m"], "CC103"),
    "half characters": (["\udc80.pt2", "-p", "prune"], "CC200"),
    "--input of another width": ([*BASE, "--input", "x: f32[b,99]"], "CC204"),
    "--input of another dtype": ([*BASE, "--input", "x: i64[b,4]"], "CC204"),
    "--factory without use": ([*BASE, "--factory", "nonsense"], "CC100"),
}


@pytest.mark.parametrize("what", CASES)
def test_one_line_and_nothing_written(
    folder: Path, capsys: object, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(folder)
    arguments, code = CASES[what]
    assert main(arguments) in (2, 3, 4, 7)
    error = capsys.readouterr().err.strip()  # type: ignore[attr-defined]
    assert error.startswith(f"[{code}]"), error
    assert len(error) < 1000
    assert error.isprintable()
    assert sorted(path.name for path in folder.iterdir()) == ["d.npz", "m.pt2"]


def test_inputs_that_agree_are_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main(["inspect", "m.pt2", "--input", "x: f32[b,4]", "--batch", "1000000"]) == 0
