"""The small commands say what they should, whole: nothing is taken for markup."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressc.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_passes(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "passes")
    assert all(name in out for name in ("distill", "lowrank", "prune", "quant", "simplify"))


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "explain", "prune")
    assert "above 0, below 1" in " ".join(out.split())
    assert "comes before distill" in out


def test_doctor_names_device_and_dtype(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = run(capsys, "doctor")
    assert "softmax_kl [cpu, float32]" in out
    assert "openvino" in out


def test_inspect(capsys: pytest.CaptureFixture[str], teacher: Path) -> None:
    """3x3, 1 to 56 channels: 504 weights, on 8x8 pixels."""
    out = run(capsys, "inspect", str(teacher), "--batch", "2")
    assert "%stem = conv2d(%x) {in=1, out=56, kernel=3, padding=1, bias=false}" in out
    assert "504" in out
    assert f"{504 * 64 * 2:,}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version").startswith("compressc 0.1")
