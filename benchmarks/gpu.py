"""softmax_kl on a GPU: checked against float64, timed against eager, torch.compile and Liger.

python benchmarks/gpu.py            prints a Markdown table with the device's name
python benchmarks/gpu.py --device cpu   runs the same script on the CPU, to see that it works

Liger's loss takes log-probabilities, so its time includes the log-softmax of the student and the
softmax of the teacher. It is left out where `liger_kernel` is not installed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from compressc import kernels
from compressc.kernels import dispatch, reference

T = 2.0
SIZES = [(256, 1000), (2048, 1000), (2048, 32000), (2048, 128256)]
Loss = Callable[[Tensor, Tensor], Tensor]


def eager(student: Tensor, teacher: Tensor) -> Tensor:
    log_q, p = F.log_softmax(student / T, dim=-1), F.softmax(teacher / T, dim=-1)
    return F.kl_div(log_q, p, reduction="batchmean") * T * T


def ours(student: Tensor, teacher: Tensor) -> Tensor:
    return kernels.softmax_kl(student, teacher, T, reduction="mean")


def liger() -> Loss | None:
    if find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import LigerKLDIVLoss  # type: ignore[import-not-found]

    loss = LigerKLDIVLoss(reduction="batchmean")
    return lambda s, t: loss(F.log_softmax(s / T, -1), F.softmax(t / T, -1)) * T * T


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


def check(student: Tensor, teacher: Tensor) -> None:
    """Ours at most twice as wrong as eager float32, both against float64, on the first rows."""
    s, t = student.detach()[:8], teacher[:8]
    exact = reference.softmax_kl(s.double(), t.double(), T)
    plain = reference.softmax_kl(s, t, T)
    error, allowed = (kernels.softmax_kl(s, t, T) - exact).abs().max(), (plain - exact).abs().max()
    if not error <= 2 * allowed + 1e-6 * exact.abs().max():
        sys.exit(f"wrong on this device: error {error:.3g}, eager's {allowed:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device; --device cpu runs the script without one")
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    device = torch.device(options.device)
    row = dispatch.choose("softmax_kl", device, torch.float32)
    print(f"{name}, torch {torch.__version__}; softmax_kl runs as {row.implementation}\n")
    print("| rows x vocabulary | ours, ms | eager | torch.compile | Liger |\n|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for rows, vocab in SIZES if device.type == "cuda" else SIZES[:2]:
            torch._dynamo.reset()
            student = torch.randn(rows, vocab, device=device).to(dtype).requires_grad_()
            teacher = torch.randn(rows, vocab, device=device).to(dtype)
            check(student, teacher)
            losses = [ours, eager, torch.compile(eager, dynamic=False), liger()]
            times = [
                None
                if loss is None
                else milliseconds(
                    lambda f=loss, s=student, t=teacher: torch.autograd.grad(f(s, t), s),
                    device.type,
                    options.rounds,
                )
                for loss in losses
            ]
            others = ["-" if t is None else f"{t / times[0]:.2f}x" for t in times[1:]]
            kind = str(dtype).removeprefix("torch.")
            print(f"| {rows} x {vocab} {kind} | {times[0]:.3f} | {' | '.join(others)} |")


if __name__ == "__main__":
    main()
