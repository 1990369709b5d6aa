"""Cutting by measured time, from the command line: here, and by a table of another device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compressc.cli import main

pytestmark = pytest.mark.slow


def model(folder: Path) -> str:
    """A small CNN for the digits, as a file."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(64, 10)),
    )
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    program = torch.export.export(net.eval(), (torch.rand(4, 1, 8, 8),), dynamic_shapes=(batch,))
    torch.export.save(program, folder / "net.pt2")
    return str(folder / "net.pt2")


def run(folder: Path, passes: str, out: str) -> dict:
    command = [model(folder), "--data", "digits", "--passes", passes, "--emit", "onnx", "--quiet"]
    command += ["--batches", "8", "--cache", str(folder / "cache"), "-o", str(folder / out)]
    assert main(command) == 0
    return json.loads((folder / out / "manifest.json").read_text())


def test_half_of_the_time_is_left_and_a_second_run_measures_nothing(tmp_path):
    manifest = run(tmp_path, "prune(latency=0.5)", "out")
    (row,) = manifest["passes"]
    record = row["records"]["latency"]
    assert record["rows measured"] > 20
    assert record["measured"] == pytest.approx(0.5, rel=0.25)  # the machine may be busy
    assert record["batch"] == 8
    assert any("measured; on" in note["text"] for note in row["notes"])
    (latency,) = manifest["files"][0]["latency"]
    assert latency["speedup"] > 1.2
    again = run(tmp_path, "prune(latency=0.6)", "again")
    assert again["passes"][0]["records"]["latency"]["rows measured"] == 0


def test_a_probe_is_measured_elsewhere_and_its_table_is_used(tmp_path, capsys):
    probe = tmp_path / "probe"
    command = [model(tmp_path), "--data", "digits", "--batches", "8", "-o", str(probe)]
    assert main(["probe", *command]) == 0
    assert "measure.py" in capsys.readouterr().out
    assert sorted(p.name for p in probe.iterdir()) == [
        *("measure.py", "models", "plan.json", "whole100", "whole25", "whole50"),
    ]
    # on the device: a process without compressc
    subprocess.run([sys.executable, "-I", probe / "measure.py"], check=True, capture_output=True)
    table = json.loads((probe / "table.json").read_text())
    table["machine"]["processor"] = "Another 1"
    (probe / "table.json").write_text(json.dumps(table))
    manifest = run(tmp_path, f"prune(latency=0.5,table={str(probe / 'table.json')!r})", "out")
    record = manifest["passes"][0]["records"]["latency"]
    assert record["device"]["processor"] == "Another 1"
    assert record["measured"] is None
    assert 0 < record["predicted"] < 0.515
    if record["predicted"] < 0.485:  # by the steps of the processor's vectors, and it is said
        notes = [note["text"] for note in manifest["passes"][0]["notes"]]
        assert any(
            "is the nearest to latency=0.5 that sizes in multiples" in note for note in notes
        )


def test_a_table_that_is_none_ends_the_command_before_any_work(tmp_path, capsys):
    (tmp_path / "table.json").write_text("{}")
    command = ["absent.pt", "--passes", f"prune(latency=0.5,table='{tmp_path / 'table.json'}')"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 4
    assert "[CC304]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
