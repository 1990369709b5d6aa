"""`compressc run` and `compressc bench`: files of an output folder, taken up again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from compressc.cli import main
from compressc.data import open_dataset
from compressc.ir import load_bundle
from compressc.ir.running import run_graph


@pytest.fixture(scope="module")
def folder(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / "out"
    words = ["-p", "lowrank(rank=8)", "--emit", "pt2,onnx", "--batches", "", "-q", "-o", str(out)]
    assert main([str(teacher), *words]) == 0
    return out


@pytest.fixture
def inputs(tmp_path):
    x = open_dataset("digits").test.take(37).inputs[0].numpy()
    np.savez(tmp_path / "x.npz", x=x)
    return x


@pytest.mark.parametrize("name", ["pt2", "onnx"])
def test_answers_come_in_the_order_of_the_file(folder, inputs, tmp_path, name):
    words = ["--format", name, "--data", str(tmp_path / "x.npz"), "--batch", "10"]
    assert main(["run", str(folder), *words, "-o", str(tmp_path / "y.any")]) == 0
    (answers,) = np.load(tmp_path / "y.any").values()
    (want,) = run_graph(load_bundle(folder / "graph"), (torch.from_numpy(inputs),))
    assert answers.shape == (37, 10)
    assert np.allclose(answers, want.numpy(), atol=1e-4)


def test_a_part_of_divided_data_is_run(folder, tmp_path, capsys):
    out = tmp_path / "y.npz"
    words = ["run", str(folder), "--data", "digits", "-o", str(out)]
    assert main([*words, "--part", "calibration"]) == 0
    assert len(next(iter(np.load(out).values()))) == len(open_dataset("digits").calibration)
    assert main([*words, "--part", "holdout"]) == 4
    error = capsys.readouterr().err
    assert "CC300" in error
    assert "train, test, calibration" in error


def test_what_is_not_there_is_said(folder, inputs, tmp_path, capsys):
    data = ["--data", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")]
    assert main(["run", str(folder), "--format", "openvino", *data]) == 2
    assert "choose of pt2, onnx" in capsys.readouterr().err
    assert main(["run", str(tmp_path), *data]) == 5
    assert "CC403" in capsys.readouterr().err
    np.savez(tmp_path / "wide.npz", x=np.zeros((4, 1, 9, 9), np.float32))
    wrong = ["--data", str(tmp_path / "wide.npz"), "-o", str(tmp_path / "y.npz")]
    assert main(["run", str(folder), *wrong]) == 3
    assert "CC204" in capsys.readouterr().err
    assert not (tmp_path / "y.npz").exists()


def test_no_batch_sizes_mean_one_sample_and_the_table_names_each_file(folder, capsys):
    assert main(["bench", str(folder), "--batches", ""]) == 0
    shown = capsys.readouterr().out
    assert "pt2" in shown
    assert "onnx" in shown
    assert "batch 1: " in shown
    assert "mJ: energy of one batch, " in shown


def test_files_are_timed_side_by_side(folder, inputs, tmp_path, capsys):
    words = ["bench", str(folder), "--data", str(tmp_path / "x.npz"), "--batches", "1,3", "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["format"], row["batch"]) for row in rows] == [
        (name, batch) for batch in (1, 3) for name in ("pt2", "onnx")
    ]
    assert [row["speedup"] is None for row in rows] == [True, False, True, False]
    assert all(row["latency"]["median_ms"] > 0 and row["first_answer_s"] > 0 for row in rows)
    assert all(row["memory_bytes"] > 0 for row in rows)
    assert all(row["energy"]["joules"] > 0 for row in rows)
    assert {row["energy"]["how"] for row in rows} <= {"measured", "estimated"}
