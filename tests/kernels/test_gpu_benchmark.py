"""benchmarks/gpu.py without a GPU: what it checks is right, and it writes no table."""

import sys

import pytest
import torch

from benchmarks import gpu


@pytest.mark.parametrize("dtype", gpu.DTYPES)
def test_its_formulas_are_our_operators(implementation, dtype):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 8, 100).to(dtype).unbind()
    for case in gpu.cases(teacher, torch.randint(100, (8,))):
        gpu.check(case, student)


def test_a_wrong_result_stops_it():
    exact = torch.ones(3)
    gpu.assert_right("good", exact + 2e-7, exact + 1e-7, exact, 0.0)
    with pytest.raises(SystemExit, match="bad is wrong"):
        gpu.assert_right("bad", exact + 1e-3, exact, exact, 1e-6)
    with pytest.raises(SystemExit, match="bad is wrong"):
        gpu.assert_right("bad", exact * float("nan"), exact, exact, 1e-6)


@pytest.mark.parametrize("arguments", [["--device", "cpu", "--out", "table.md"], []])
def test_no_table_of_a_gpu_without_one(monkeypatch, tmp_path, arguments):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    with pytest.raises(SystemExit, match=r"GPU|CUDA"):
        gpu.main()
    assert list(tmp_path.iterdir()) == []
