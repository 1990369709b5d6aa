"""What is particular to the CUDA kernels, in emulation: orders of threads, barriers, shared memory.

Their results are checked with everyone else's: `implementation` in conftest.py has "cuda-emulated".
"""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from emulated import SHARED, build, on_a_gpu

from compressc.errors import CompresscError
from compressc.kernels import TopK, cuda, dispatch, linear_softmax_kl, softmax_kl
from compressc.kernels.losses.problem import Problem
from compressc.kernels.lowrank import gpu

HERE = Path(__file__).parent


def problems(rows: int = 3, vocab: int = 3000) -> list[Problem]:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, rows, vocab).mul(3).unbind()
    labels = torch.randint(-1, vocab, (rows,))
    return [
        Problem(student, teacher, 2.0),
        Problem(student, teacher, 2.0, direction="reverse"),
        Problem(student, teacher, 2.0, direction="jensen_shannon"),
        Problem(student, teacher, 2.0, labels=labels, kl_share=0.5, smoothing=0.1),
        Problem(student, TopK.of(teacher, 5, 2.0), 2.0),
    ]


def product() -> list[torch.Tensor]:
    x, u = torch.linspace(-1, 1, 9 * 100).reshape(9, 100), torch.ones(30, 40).cumsum(0)
    return [cuda.lowrank_linear(x, torch.ones(40, 100), u)]


def calls() -> list[Callable[[], list[torch.Tensor]]]:
    """One of each kernel."""
    return [product, *[partial(cuda.rows_loss, problem, True, False) for problem in problems()]]


def solve_all() -> list[torch.Tensor]:
    return [tensor for call in calls() for tensor in call()]


def same(got: list[torch.Tensor], want: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, got, want))


def test_the_order_of_threads_does_not_matter():
    runs = []
    for order in (0, 1, 2, 3, 4, 5):
        with on_a_gpu(order):
            runs.append(solve_all())
    assert all(same(run, runs[0]) for run in runs[1:])


def test_a_removed_barrier_is_noticed():
    """The same sources without the blocks' barriers: another order, or stale memory, shows."""
    with on_a_gpu(0):
        want = [call() for call in calls()]
    noticed = set()
    for order in (0, 1, 2):
        with on_a_gpu(order, "-DCOMPRESSC_WITHOUT_BARRIERS"):
            for i, call in enumerate(calls()):
                try:
                    right = same(call(), want[i])
                except CompresscError:  # threads went different ways, and never met
                    right = False
                if not right:
                    noticed.add(i)
    assert noticed == set(range(len(want))), "every kernel depends on its barriers"


@pytest.mark.parametrize("shared", [4 << 10, 20 << 10, SHARED])
def test_how_much_of_a_row_is_kept_on_chip_does_not_matter(shared):
    with on_a_gpu(shared=SHARED):
        want = solve_all()
    with on_a_gpu(shared=shared):
        assert same(solve_all(), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_that_begin_anywhere_in_memory(dtype):
    """Where a row does not begin on 16 bytes, elements are read one at a time."""
    with on_a_gpu():
        wide = torch.randn(4, 1001).to(dtype)
        for problem in problems(4, 997):
            teacher = problem.teacher if isinstance(problem.teacher, TopK) else wide[:, 3:1000]
            odd = problem._replace(student=wide[:, 1:998], teacher=teacher)
            even = odd._replace(student=wide[:, 1:998].clone())
            assert same(cuda.rows_loss(odd, True, False), cuda.rows_loss(even, True, False))


def test_a_label_or_index_outside_the_vocabulary_makes_its_row_nan():
    student, teacher = torch.randn(2, 3, 40).unbind()
    labels = torch.tensor([1, 40, -1])
    topk = TopK.of(teacher, 2)
    topk.indices[1, 0] = 40
    with on_a_gpu():
        for problem in (
            Problem(student, teacher, 1.0, labels=labels, kl_share=0.5),
            Problem(student, topk, 1.0),
        ):
            loss, grad = cuda.rows_loss(problem, True, False)
            assert torch.isnan(loss).tolist() == [False, True, False]
            assert torch.isnan(grad).all(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_times_factors(dtype):
    with on_a_gpu():
        for columns in (1, 40, 1027):
            for scale in (torch.tensor([1.0, 0.5, -2.0]), torch.tensor(4.0).expand(3)):
                data = torch.randn(3, columns).to(dtype)
                want = data * scale[:, None].to(dtype)
                cuda.scale_rows(data, scale)
                assert torch.equal(data, want)


def test_hidden_states_to_loss_in_the_logits_memory():
    torch.manual_seed(1)
    h, w, teacher = torch.randn(20, 8), torch.randn(60, 8), (torch.randn(20, 4), torch.randn(60, 4))
    want = softmax_kl(h @ w.T, teacher[0] @ teacher[1].T, 2.0, reduction="mean")
    with on_a_gpu():
        leaf = h.clone().requires_grad_()
        got = linear_softmax_kl((leaf, w), teacher, 2.0)
        (grad,) = torch.autograd.grad(got, leaf)
    torch.testing.assert_close(got, want)
    assert torch.isfinite(grad).all()


def test_a_gpu_gets_cuda_then_triton_then_torch_and_the_table_says_why(monkeypatch):
    device = torch.device("cpu")
    with on_a_gpu():
        assert dispatch.choose("softmax_kl_topk", device, torch.float32).implementation == "cuda"
        wide = dispatch.choose("softmax_kl", device, torch.float64)
        assert wide == ("softmax_kl", "reference", "the GPU kernels have no float64")
        assert dispatch.choose("int8_lowrank_linear", device).implementation == "reference"
        with dispatch.using("triton"):
            row = dispatch.choose("softmax_kl", device, torch.float32)
            assert row.implementation == "triton"
        with dispatch.using("native"), pytest.raises(CompresscError):
            dispatch.choose("softmax_kl", device, torch.float32)
        monkeypatch.setattr(cuda, "LIBRARY", None)
        monkeypatch.setattr(cuda, "REASON", "not built")
        row = dispatch.choose("softmax_kl", device, torch.bfloat16)
        assert row.implementation == "triton"
        assert "not built" in row.reason
        assert ("gpu [cuda]", "no") in [row[:2] for row in dispatch.table()]
        with dispatch.using("cuda"), pytest.raises(CompresscError):
            dispatch.choose("softmax_kl", device, torch.float32)


def test_a_kernel_that_does_not_start_says_so(monkeypatch):
    class Broken:
        def __getattr__(self, name):
            return (lambda _: b"out of memory") if "error" in name else (lambda *_: 2)

    logits = torch.randn(2, 5)
    with on_a_gpu():
        monkeypatch.setattr(cuda, "LIBRARY", Broken())
        with pytest.raises(CompresscError, match="out of memory") as caught:
            softmax_kl(logits, logits)
    assert caught.value.code == "CC602"
    assert "COMPRESSC_KERNELS=reference" in str(caught.value)


def test_the_fused_low_rank_kernel_runs_where_it_was_measured_to_win(monkeypatch):
    monkeypatch.setattr(gpu, "FUSED", {})
    x, v, u, bias = torch.randn(2, 4, 64), torch.randn(8, 64), torch.randn(30, 8), torch.randn(30)
    want = x @ v.T @ u.T + bias
    for chosen in ("cuda", "torch"):
        monkeypatch.setattr(gpu, "_measure", lambda *_, way=chosen: (way, "measured"))
        monkeypatch.setattr(gpu, "FUSED", {})
        with on_a_gpu():
            torch.testing.assert_close(gpu.lowrank_linear(x, v, u, bias), want)
            assert ("lowrank_linear [64-8-30, up to 8 rows, float32]", chosen, "measured") in (
                dispatch.table()
            )
    monkeypatch.setattr(gpu, "_measure", lambda *_: pytest.fail("measured"))
    with on_a_gpu():
        many = gpu.lowrank_linear(torch.randn(17, 64), v, u)
        assert many.shape == (17, 30)
        gpu.lowrank_linear(x.double(), v.double(), u.double())
        gpu.lowrank_linear(torch.randn(4, 64, requires_grad=True), v, u)
        gpu.lowrank_linear(torch.randn(4, 8192), torch.randn(8, 8192), u)


def test_the_measurement_takes_the_faster_way(monkeypatch):
    times = {"fused": 1.0, "plain": 2.0}

    def milliseconds(call):
        call()
        return times["fused" if seen.pop() == "cuda" else "plain"]

    seen: list[str] = []
    monkeypatch.setattr(gpu, "_milliseconds", milliseconds)
    monkeypatch.setattr(gpu.cuda, "lowrank_linear", lambda *_: seen.append("cuda"))
    monkeypatch.setattr(gpu.reference, "lowrank_linear", lambda *_: seen.append("torch"))
    with on_a_gpu():
        chosen, reason = gpu._measure(*[torch.zeros(1)] * 4)
        assert chosen == "cuda"
        assert "2.00x" in reason
        times["fused"] = 1.95
        assert gpu._measure(*[torch.zeros(1)] * 4)[0] == "torch", "too little to be sure"


def test_threads_that_wait_for_one_another_are_reported(tmp_path):
    source = tmp_path / "divergent.cpp"
    source.write_text(
        '#include "platform.h"\n'
        "__global__ void kernel(int) { if (threadIdx.x < 32) __syncthreads(); }\n"
        "int main() { return compressc::cuda::launch(kernel, 0, 1, 1, 64, 0, nullptr) ==\n"
        "  emulation::kDeadlock ? 0 : 1; }\n"
    )
    build()  # skips without a compiler
    program = tmp_path / "divergent"
    include = [f"-I{HERE.parents[1] / 'csrc' / part}" for part in ("cuda", "include")]
    subprocess.run(["g++", "-std=c++17", *include, str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("barriers", [True, False])
def test_under_the_thread_sanitizer(tmp_path, barriers):
    """No two accesses without a barrier between them; and with the barriers gone, there are."""
    flags = "-fsanitize=thread;-g" + ("" if barriers else ";-DCOMPRESSC_WITHOUT_BARRIERS")
    library = build(flags)
    program = tmp_path / "driver"
    include = f"-I{HERE.parents[1] / 'csrc' / 'include'}"
    subprocess.run(
        ["g++", "-std=c++17", "-fsanitize=thread", include, str(HERE / "emulated_driver.cpp"),
         str(library), f"-Wl,-rpath,{library.parent}", "-o", str(program)],
        check=True,
    )  # fmt: skip
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    if barriers:
        assert "ran" in result.stdout, result.stderr[-3000:]
    assert ("data race" in result.stderr) is not barriers, result.stderr[-3000:]
