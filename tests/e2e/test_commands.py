"""The small commands say what they should, whole: nothing is taken for markup."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compressc.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(run(capsys, "objectives").split())
    assert "softmax" in out
    assert "arXiv" in out
    explained = " ".join(run(capsys, "explain", "dkd").split())
    assert "formula: T^2 * (KL of (y, not y) + beta * KL of the classes without y)" in explained
    assert "source: Zhao et al. 2022, arXiv 2203.08679, eq. 7 reads labels, rows" in explained


def test_passes(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "passes")
    assert all(name in out for name in ("distill", "lowrank", "prune", "quant", "simplify"))


def test_explain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
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


COVERAGE = ("--data", "digits", "--coverage", "--for", "prune(ratio=0.3),lowrank(rank=2)")


def test_coverage_lists_every_op_with_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, teacher: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out = run(capsys, "inspect", str(teacher), *COVERAGE)
    assert max(map(len, out.splitlines())) <= 100
    prune, lowrank = out.split("lowrank(rank=2)\n", 1)
    assert re.search(r"\+ stem +conv2d +504 +cuts 16 of 56 channels", prune)
    assert re.search(r"\+ head +linear +1,130 +follows the cut of", prune)
    assert re.search(r"\+ conv1 +conv2d +28,224 +factorizes to rank 2 of 56 \(channel\)", lowrank)
    assert re.search(r"- depthwise +conv2d +1,008 +a convolution of 112 groups", lowrank)
    assert re.search(r"\. bn +batch_norm2d +112 +no matrix of weights", lowrank)
    assert re.search(r"\. \d+ ops +no matrix of weights", lowrank)
    assert "graph model" not in out
    assert re.search(r"prune\(ratio=0.3\) +474,936 of 474,946 +100.0%", out)


def test_coverage_as_json_is_all_of_it(capsys: pytest.CaptureFixture[str], teacher: Path) -> None:
    found = json.loads(run(capsys, "inspect", str(teacher), *COVERAGE, "--json"))
    assert [entry["pass"] for entry in found["passes"]] == ["prune(ratio=0.3)", "lowrank(rank=2)"]
    prune, lowrank = found["passes"]
    assert len(prune["ops"]) == len(lowrank["ops"]) == found["ops"] == 36
    assert prune["uncovered"] == [
        {"tensor": "head.bias", "parameters": 10, "reason": prune["uncovered"][0]["reason"]}
    ]
    covered = (
        sum(item["parameters"] for item in lowrank["uncovered"]) + lowrank["covered_parameters"]
    )
    assert covered == lowrank["parameters"] == 474_946
    assert sum(lowrank["counts"].values()) == 36


def test_all_gives_each_op_a_row(capsys: pytest.CaptureFixture[str], teacher: Path) -> None:
    out = run(capsys, "inspect", str(teacher), *COVERAGE, "--all")
    assert re.search(r"\+ relu_1 ", out)
    assert " ops: " not in out


def test_strict_names_what_is_not_reached(
    capsys: pytest.CaptureFixture[str], teacher: Path
) -> None:
    text = "lowrank(rank=2, scheme=svd)"
    arguments = ["inspect", str(teacher), "--data", "digits", "--for", text]
    assert main([*arguments, "--strict", "0.01"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--strict", "0.9"]) == 6
    printed = capsys.readouterr()
    assert printed.err.startswith(f"[CC505] '{text}' must reach 90.0% of the parameters")
    assert "stage2.conv2.weight (112,896): left to channel or spatial or tucker" in printed.err
    assert "coverage of model" in printed.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--for", "prun"), "[CC101]"),
        (("--for", "prune(ratio=2)"), "[CC102]"),
        (("--strict", "2"), "[CC100]"),
    ],
)
def test_coverage_options_are_checked_before_the_model_is_read(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: str
) -> None:
    assert main(["inspect", "no-such-file.pt", *arguments]) == 2
    assert capsys.readouterr().err.startswith(code)


@pytest.mark.parametrize("words", [["explain", "distill"], ["passes"], ["objectives"]])
def test_a_reader_that_leaves_is_no_mistake(words: list[str]) -> None:
    """`compressc explain distill | head -1`: rich ends the process, plain printing raises."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "compressc", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
