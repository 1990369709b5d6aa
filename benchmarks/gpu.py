"""Every GPU kernel, checked against float64 and timed against eager, torch.compile and Liger.

python benchmarks/gpu.py                  checks, times, writes benchmarks/gpu-<device>.md
python benchmarks/gpu.py --device cpu     runs the same script on the CPU, to see that it works;
                                          writes nothing, for a GPU's table needs a GPU

Each operator runs once for every implementation that is here: CUDA C++ (installed with
COMPRESSC_CUDA=1) and Triton. Liger's losses take log-probabilities, so their times include what
makes those of logits; they are left out where `liger_kernel` is not installed.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from compressc import kernels
from compressc.errors import CompresscError
from compressc.kernels import TopK, cuda, dispatch, reference
from compressc.kernels.lowrank import gpu
from compressc.kernels.lowrank.shape import Shape

T = 2.0
SIZES = [(256, 1000), (2048, 1000), (2048, 32000), (2048, 128256)]
PRODUCTS = [(1, 1024, 16, 4096), (1, 4096, 16, 4096), (8, 1024, 64, 4096), (16, 768, 64, 3072)]
DTYPES = (torch.float32, torch.bfloat16)
Loss = Callable[[Tensor], Tensor]  # of the student's logits


class Case(NamedTuple):
    """One operator on one problem: ours, the same as people write it, and Liger's if it has one."""

    name: str
    ours: Loss
    eager: Loss
    liger: Loss | None = None


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * T * T


def eager_js(s: Tensor, t: Tensor) -> Tensor:
    log_p, log_q = F.log_softmax(t / T, -1), F.log_softmax(s / T, -1)
    log_m = torch.logaddexp(log_p, log_q) - 0.6931471805599453
    return (kl(log_p, log_m) + kl(log_q, log_m)) / 2


def eager_topk(s: Tensor, teacher: TopK) -> Tensor:
    log_p, log_q = reference.topk_events(s, teacher.values.to(s.dtype), teacher, T)
    return reference.divergence(log_p, log_q).mean() * T * T


def cases(teacher: Tensor, labels: Tensor) -> list[Case]:
    """Every loss against this teacher `[B, V]` and these labels `[B]`."""
    topk = TopK.of(teacher, 32, T)

    def log(x: Tensor) -> Tensor:
        return F.log_softmax(x / T, dim=-1)

    def like(s: Tensor) -> Tensor:  # the check asks in float64
        return teacher.to(s.dtype)

    return [
        Case(
            "softmax_kl",
            lambda s: kernels.softmax_kl(s, teacher, T, reduction="mean"),
            lambda s: kl(log(like(s)), log(s)),
            liger_kl(teacher),
        ),
        Case(
            "softmax_kl reverse",
            lambda s: kernels.softmax_kl(s, teacher, T, direction="reverse", reduction="mean"),
            lambda s: kl(log(s), log(like(s))),
        ),
        Case(
            "softmax_kl jensen_shannon",
            lambda s: kernels.softmax_kl(
                s, teacher, T, direction="jensen_shannon", reduction="mean"
            ),
            lambda s: eager_js(s, like(s)),
            liger_jsd(teacher),
        ),
        Case(
            "softmax_kl_ce",
            lambda s: kernels.softmax_kl_ce(
                s, teacher, labels, T, kl_share=0.5, label_smoothing=0.1, reduction="mean"
            ),
            lambda s: (
                (kl(log(like(s)), log(s)) + F.cross_entropy(s, labels, label_smoothing=0.1)) / 2
            ),
        ),
        Case(
            "softmax_kl top-32",
            lambda s: kernels.softmax_kl(s, topk, T, reduction="mean"),
            lambda s: eager_topk(s, topk),
        ),
    ]


def liger_kl(teacher: Tensor) -> Loss | None:
    if find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import LigerKLDIVLoss  # type: ignore[import-not-found]

    loss = LigerKLDIVLoss(reduction="batchmean")
    return lambda s: loss(F.log_softmax(s / T, -1), F.softmax(teacher / T, -1)) * T * T


def liger_jsd(teacher: Tensor) -> Loss | None:
    if find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import LigerJSD

    loss = LigerJSD(beta=0.5)
    return lambda s: loss(F.log_softmax(s / T, -1), F.log_softmax(teacher / T, -1)) * T * T


def milliseconds(call: Callable[[], object], device: str, rounds: int) -> float:
    """Median of one call; on a GPU between two events, after a warm-up."""
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            call()
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def assert_right(name: str, ours: Tensor, plain: Tensor, exact: Tensor, unit: float) -> None:
    """Ours at most twice as wrong as eager's, both against float64, and a rounding more."""
    error, allowed = (ours - exact).abs().max(), 2 * (plain - exact).abs().max()
    if not error <= allowed + unit * exact.abs().max():
        sys.exit(f"{name} is wrong on this device: error {error:.3g}, eager's {allowed / 2:.3g}")


def check(case: Case, student: Tensor) -> None:
    """Loss and gradient of ours."""
    results = []
    for call, leaf in (
        (case.ours, student),
        (case.eager, student.float()),
        (case.eager, student.double()),
    ):
        leaf = leaf.detach().requires_grad_()  # noqa: PLW2901
        loss = call(leaf)
        results.append((loss.detach().double(), torch.autograd.grad(loss, leaf)[0].double()))
    unit = 2**-20 if student.dtype == torch.float32 else 2**-8
    for part, tolerance in ((0, 2**-20), (1, unit)):
        assert_right(case.name, *[result[part] for result in results], tolerance)


def implementations(device: str) -> list[str]:
    """What can run on this device, each to be timed by itself."""
    if device == "cpu":
        return [dispatch.choose("softmax_kl", torch.device("cpu"), torch.float32).implementation]
    found = []
    for name in ("cuda", "triton"):
        try:
            with dispatch.using(name):
                dispatch.choose("softmax_kl", torch.device("cuda"), torch.float32)
            found.append(name)
        except CompresscError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return found


def losses(device: str, rounds: int, sizes: list[tuple[int, int]]) -> list[str]:
    """A table row for every loss, size, dtype and implementation."""
    lines = []
    for dtype in DTYPES:
        for batch, vocab in sizes:
            student = torch.randn(batch, vocab, device=device).to(dtype)
            teacher = torch.randn(batch, vocab, device=device).to(dtype)
            labels = torch.randint(vocab, (batch,), device=device)
            few = cases(teacher[:8], labels[:8])
            for i, case in enumerate(cases(teacher, labels)):
                torch._dynamo.reset()
                peers = [case.eager, torch.compile(case.eager, dynamic=False), case.liger]
                others = [None if p is None else gradient_time(p, student, rounds) for p in peers]
                for name in implementations(device):
                    with dispatch.using(name):
                        check(few[i], student[:8])
                        mine = gradient_time(case.ours, student, rounds)
                    lines.append(row(f"{case.name} {batch} x {vocab}", dtype, name, mine, others))
                    print(lines[-1], flush=True)
    return lines


def gradient_time(loss: Loss, student: Tensor, rounds: int) -> float:
    leaf = student.detach().requires_grad_()
    return milliseconds(lambda: torch.autograd.grad(loss(leaf), leaf), leaf.device.type, rounds)


def products(device: str, rounds: int) -> list[str]:
    """A table row for every fused low-rank product; on a CPU there is none."""
    lines = []
    for dtype in DTYPES if device == "cuda" else ():
        for rows, inner, rank, out in PRODUCTS:
            shape = Shape(rows, inner, rank, out, dtype, 0)
            size = f"lowrank_linear {rows} x {inner}-{rank}-{out}"
            reason = gpu.why_not_fused(shape)
            if reason:
                print(f"{size} {dtype}: {reason}", file=sys.stderr)
                continue
            x = torch.randn(rows, inner, device=device).to(dtype)
            v = (torch.randn(rank, inner, device=device) / inner**0.5).to(dtype)
            u = torch.randn(out, rank, device=device).to(dtype)
            plain, exact = F.linear(F.linear(x, v), u), x.double() @ v.double().T @ u.double().T
            two = torch.compile(reference.lowrank_linear, dynamic=False)
            peers = [
                milliseconds(lambda f=f, a=(x, v, u): f(*a), device, rounds)
                for f in (reference.lowrank_linear, two)
            ]
            fused = {"cuda": cuda.lowrank_linear, "triton": gpu.triton_linear}
            for name in implementations(device):
                ours = fused[name]
                unit = 2**-20 if dtype == torch.float32 else 2**-8
                assert_right(size, ours(x, v, u), plain, exact, unit)
                mine = milliseconds(lambda f=ours, a=(x, v, u): f(*a), device, rounds)
                lines.append(row(size, dtype, name, mine, [*peers, None]))
                print(lines[-1], flush=True)
    return lines


def row(what: str, dtype: torch.dtype, name: str, mine: float, others: list[float | None]) -> str:
    kind = str(dtype).removeprefix("torch.")
    ratios = ["-" if t is None else f"{t / mine:.2f}x" for t in others]
    return f"| {what} {kind} | {name} | {mine:.4f} | {' | '.join(ratios)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, help="where to write the table")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device; --device cpu runs the script without one")
    if options.out is not None and not on_gpu:
        sys.exit("a table of GPU figures is written on a GPU only")
    name = torch.cuda.get_device_name() if on_gpu else "CPU (no GPU figures)"
    head = [
        f"{name}, torch {torch.__version__}. Loss and gradient, or product; medians of "
        f"{options.rounds} calls. Ratios: a peer's time divided by ours, more is better.",
        "",
        "| what | ours | ms | eager | torch.compile | Liger |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(head), flush=True)
    lines = losses(options.device, options.rounds, SIZES if on_gpu else [(32, 1000)])
    lines += products(options.device, options.rounds)
    if on_gpu:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        path = options.out or Path(__file__).with_name(f"gpu-{slug}.md")
        path.write_text("\n".join([*head, *lines]) + "\n")
        print(f"\nwrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
