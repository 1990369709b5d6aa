"""A stranger's distribution, installed with pip, is found and runs like our own passes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compressc.testing import check_coverage, check_pass, export_graph

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Where pip put the plugin: nothing is downloaded, this environment stays as it is."""
    target = tmp_path_factory.mktemp("site")
    copy = tmp_path_factory.mktemp("source") / "plugin"  # pip leaves build folders in the source
    shutil.copytree(PLUGIN, copy)
    options = "--quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options.split(), "--target", target, copy],
        check=True,
    )
    return target


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    environment["COMPRESSC_CACHE"] = str(folder / "cache")
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


COMPRESSC = ("-c", "from compressc.cli import entry; entry()")


def test_it_is_listed_with_its_distribution(installed, tmp_path):
    done = run(installed, tmp_path, *COMPRESSC, "passes")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "sparsify24 " in line]
    assert "compressc-sparsify24 0.1.0" in line
    assert "Keep the two largest of every four" in line


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A network that takes digits, as a file."""
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    shapes = ({0: torch.export.Dim("b")},)
    example = (torch.randn(3, 1, 8, 8),)
    program = torch.export.export(nn.Sequential(*layers).eval(), example, dynamic_shapes=shapes)
    path = tmp_path_factory.mktemp("model") / "model.pt2"
    torch.export.save(program, path)
    return str(path)


def test_it_runs_in_a_compilation(installed, model, tmp_path):
    passes = "sparsify24(least_width=48)"
    options = ("--data", "digits", "--emit", "pt2", "--batches", "", "-o", "out")
    done = run(installed, tmp_path, *COMPRESSC, model, "--passes", passes, *options)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "sparsify24" in json.dumps(manifest)
    program = torch.export.load(tmp_path / "out" / "model.pt2")
    weights = {tuple(t.shape): t for t in program.state_dict.values() if t.dim() == 2}
    assert (weights[32, 64] == 0).float().mean() == 0.5
    assert (weights[10, 32] == 0).sum() == 0


def test_its_order_is_checked(installed, model, tmp_path):
    done = run(installed, tmp_path, *COMPRESSC, model, "-p", "sparsify24,prune", "-o", "out")
    assert done.returncode == 2
    assert done.stderr.startswith("[CC104] 'prune' must come before 'sparsify24'")
    assert "cutting columns moves the groups of four" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_it_says_what_it_can_do(installed, model, tmp_path):
    done = run(installed, tmp_path, *COMPRESSC, "inspect", model, "--for", "sparsify24", "--all")
    assert done.returncode == 0, done.stderr
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert any(row.endswith("linear 2,080 2 of every 4 weights are zero") for row in rows)
    assert any(row.endswith("flatten.using.. no linear layer") for row in rows), rows


def test_the_pass_itself(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    from compressc_sparsify24 import Sparsify24

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    graph = export_graph(module, torch.randn(4, 16))
    checked = check_pass(Sparsify24(), graph)
    assert check_coverage(Sparsify24(), graph).covered == 16 * 8
    assert checked.notes == {"0": ["2 of every 4 weights are zero"], "2": ["skipped: 8 inputs"]}
    assert checked.edits == {"set_layer": 1}
    weight, before = checked.graph["0"].layer.weight, module[0].weight
    for row, old in zip(weight.reshape(-1, 4), before.reshape(-1, 4), strict=True):
        largest = sorted(old.abs().tolist())[2:]
        assert sorted(row[row != 0].abs().tolist()) == largest
    assert torch.equal(checked.graph["2"].layer.weight, module[2].weight)
