"""Ten thousand random problems, no NaN and no mismatch; and the C++ under ASan and UBSan."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from emulated import on_a_gpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measure import exactly

from compressc.kernels import cuda, native
from compressc.kernels.losses.problem import Problem, TopK

ROOT = Path(__file__).parents[2]
ISAS = ("avx512", "avx2", "portable")
EMULATED = "cuda-emulated"
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "isa": st.sampled_from((*ISAS, EMULATED)),
        "kind": st.sampled_from(["forward", "reverse", "jensen_shannon", "labels", "topk"]),
        "rows": st.integers(0, 6),
        "vocab": st.one_of(st.integers(1, 70), st.integers(1000, 1100), st.integers(2040, 2060)),
        "dtype": st.sampled_from(list(DTYPES)),
        "temperature": st.sampled_from([0.5, 1.0, 4.0, 20.0]),
        "size": st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]),
        "masked": st.sampled_from([0.0, 0.3, 0.95, 1.0]),
        "weighted": st.booleans(),
        "smoothing": st.sampled_from([0.0, 0.1]),
    }
)


def make(case: dict) -> Problem:
    """The tensors of a case. Both sides mask the same tokens, so that every loss is finite."""
    torch.manual_seed(case["seed"])
    rows, vocab, temperature = case["rows"], case["vocab"], case["temperature"]
    logits = torch.randn(2, rows, vocab + 3) * case["size"]
    hidden = torch.rand(rows, vocab + 3) < case["masked"]
    masked = logits.masked_fill(hidden, -math.inf).to(case["dtype"])
    student, teacher = masked[:, :, :vocab].unbind()
    weight = torch.rand(rows).round() if case["weighted"] else None
    if case["kind"] == "topk":
        k = min(3, vocab)
        values, indices = teacher.float().topk(k, dim=-1)
        return Problem(student, TopK(values, indices, torch.zeros(rows)), temperature, weight)
    if case["kind"] != "labels":
        return Problem(student, teacher, temperature, weight, case["kind"])
    labels = torch.where(torch.rand(rows) < 0.2, -100, student.float().argmax(dim=-1))
    smoothing = case["smoothing"] if case["masked"] == 0.0 else 0.0
    return Problem(student, teacher, temperature, weight, "forward", labels, 0.7, smoothing)


def compare(problem: Problem, kernels: ModuleType = native) -> None:
    """Loss and gradient of the native kernel (or the emulated one) next to float64."""
    loss, grad = kernels.rows_loss(problem, True, False)
    exact, exact_grad = exactly(problem)
    largest = max(problem.temperature, 1.0) ** 2
    assert not torch.isnan(loss).any()
    assert not torch.isnan(grad).any()
    # x / T is rounded once in float32 and then exponentiated: so an error grows with the logits.
    finite = problem.student.float()
    spread = finite[torch.isfinite(finite)].abs().max().item() if finite.isfinite().any() else 0.0
    slack = 1e-6 * largest * (1.0 + spread / problem.temperature)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=slack)
    tolerance = DTYPES[problem.student.dtype]
    torch.testing.assert_close(grad.double(), exact_grad, rtol=tolerance, atol=slack)


def run_random(count: int, emulate: bool = True) -> None:
    if native.MODULE is None:
        pytest.skip(native.REASON)
    before = native.MODULE.instruction_set()

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(problems)
    def body(case: dict) -> None:
        if case["isa"] == EMULATED:
            if emulate:
                with on_a_gpu(order=case["seed"] % 1000):
                    compare(make(case), cuda)
        elif native.MODULE.use_instruction_set(case["isa"]):
            compare(make(case))

    try:
        body()
    finally:
        native.MODULE.use_instruction_set(before)


def test_three_hundred_random_cases():
    run_random(300)


@pytest.mark.slow
def test_ten_thousand_random_cases():
    run_random(10_000)


@pytest.mark.slow
def test_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    """The same random cases in a process whose native module is built with both sanitizers."""
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Ninja",
        f"-DPython_EXECUTABLE={sys.executable}", "-DCOMPRESSC_SANITIZE=ON",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={tmp_path}",
    ]  # fmt: skip
    try:
        subprocess.run(configure, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no CMake, Ninja or C++ compiler")
    subprocess.run(["cmake", "--build", str(tmp_path / "build")], check=True, capture_output=True)
    library = next(tmp_path.glob("_native*.so"))
    libasan = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    script = (
        "import importlib.util, sys, torch\n"
        "name = 'compressc.kernels._native'\n"
        f"spec = importlib.util.spec_from_file_location(name, r'{library}')\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "sys.modules[name] = module\n"
        f"sys.path.insert(0, r'{Path(__file__).parent}')\n"
        "import test_random_cases as t\n"
        f"assert t.native.MODULE.__file__ == r'{library}'\n"
        "import test_lowrank_fused as l\n"
        "t.run_random(400, emulate=False); l.run_random(200); print('clean')\n"
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": libasan,
        # Python and torch are not built to be checked for leaks.
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "OMP_NUM_THREADS": "2",
    }
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "clean" in result.stdout
