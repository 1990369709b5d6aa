"""The kernels against plain torch and torch.compile, in one run: python benchmarks/kernels.py

Interleaved in shuffled order, medians; with one thread its processor time, which other processes
disturb least. A turn repeats a call for a millisecond: of a call of some 50 microseconds alone, a
third is what the contestant before it left in the caches (COMPRESSC_TURN=0 shows that).
"of store" is bytes read and written in a second over those that `fill_` writes, "of add" the time
of `torch.add(s, t, out=g)`, the same bytes, over ours. malloc keeps its pages (the script restarts
itself with the settings): otherwise eager torch is charged for page faults that have nothing to do
with kernels.
`--threads 2`, `--quick` (fewer rounds, no 128256), `--only softmax,memory,linear,lowrank,step`.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable

KEEP_PAGES = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
if os.environ.get("MALLOC_TRIM_THRESHOLD_") != KEEP_PAGES["MALLOC_TRIM_THRESHOLD_"]:
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_PAGES})

import torch  # noqa: E402 - malloc's settings come first
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from compressc import kernels  # noqa: E402
from compressc.kernels import dispatch, native  # noqa: E402
from compressc.measure import peak_bytes  # noqa: E402

Loss = Callable[[Tensor, Tensor], Tensor]
T = 2.0
TURN = float(os.environ.get("COMPRESSC_TURN", "1e-3"))  # seconds
FAULTS = 16  # a call, above which it is malloc that is timed
SIZES = [(256, 10), (256, 1000), (2048, 1000), (512, 32000), (256, 128256)]


def eager(student: Tensor, teacher: Tensor) -> Tensor:
    log_q, p = F.log_softmax(student / T, dim=-1), F.softmax(teacher / T, dim=-1)
    return F.kl_div(log_q, p, reduction="batchmean") * T * T


def ours(student: Tensor, teacher: Tensor) -> Tensor:
    return kernels.softmax_kl(student, teacher, T, reduction="mean")


def gradient(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    return torch.autograd.grad(loss(student, teacher), student)[0]


def medians(
    ways: dict[str, Callable[[], object]], seconds: float, least: int = 5
) -> dict[str, float]:
    """Median seconds of each way, taken in turns, in an order shuffled every round."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    calls: dict[str, int] = {}
    for name, way in ways.items():
        way()
        start = clock()
        way()
        calls[name] = max(1, round(TURN / max(clock() - start, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in ways}
    faults: dict[str, list[float]] = {name: [] for name in ways}
    names, end = list(ways), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[names[0]]) < least:
        random.shuffle(names)
        for name in names:
            start, before = clock(), page_faults()
            for _ in range(calls[name]):
                ways[name]()
            times[name].append((clock() - start) / calls[name])
            faults[name].append((page_faults() - before) / calls[name])
    for name, counts in faults.items():
        if (count := statistics.median(counts)) > FAULTS:
            print(
                f"  {count:.0f} page faults in each call of {name}: no fair time", file=sys.stderr
            )
    return {name: statistics.median(values) for name, values in times.items()}


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def softmax(seconds: float, sizes: list[tuple[int, int]]) -> None:
    print(
        "\nsoftmax_kl, forward + gradient      ours  vs eager  vs torch.compile  of store  of add"
    )
    for dtype in (torch.float32, torch.bfloat16):
        for rows, vocab in sizes:
            student = torch.randn(rows, vocab).to(dtype).requires_grad_()
            teacher, out = torch.randn(rows, vocab).to(dtype), torch.empty(rows, vocab, dtype=dtype)
            torch._dynamo.reset()
            compiled = torch.compile(eager, dynamic=False)
            plain = student.detach()
            ways = {
                "ours": lambda s=student, t=teacher: gradient(ours, s, t),
                "eager": lambda s=student, t=teacher: gradient(eager, s, t),
                "compiled": lambda s=student, t=teacher, c=compiled: gradient(c, s, t),
                # the same bytes: two tensors read, one written
                "add": lambda s=plain, t=teacher, o=out: torch.add(s, t, out=o),
                "fill": lambda o=out: o.fill_(1.0),
            }
            m = medians(ways, seconds)
            name = f"({rows}, {vocab}) {str(dtype)[6:]}"
            print(
                f"  {name:28} {m['ours'] * 1e3:10.3f} ms {m['eager'] / m['ours']:8.2f}x "
                f"{m['compiled'] / m['ours']:12.2f}x {3 * m['fill'] / m['ours']:12.2f} "
                f"{m['add'] / m['ours']:7.2f}"
            )


def memory(rows: int = 256) -> None:
    print("\nextra memory, in logit tensors      ours     eager")
    for dtype in (torch.float32, torch.bfloat16):
        for vocab in (1000, 32000):
            student = torch.randn(rows, vocab).to(dtype).requires_grad_()
            teacher = torch.randn(rows, vocab).to(dtype)
            unit = student.numel() * student.element_size()
            a, b = (
                peak_bytes(lambda f=f, s=student, t=teacher: gradient(f, s, t)) / unit
                for f in (ours, eager)
            )
            print(f"  ({rows}, {vocab}) {str(dtype)[6:]:18} {a:8.2f} {b:8.2f}")


def linear(seconds: float, tokens: int = 2048, width: int = 768, vocab: int = 32000) -> None:
    h_s, h_t = torch.randn(2, tokens, width).unbind()
    w_s, w_t = (torch.randn(2, vocab, width) / width**0.5).unbind()
    leaves = (h_s.requires_grad_(), w_s.requires_grad_())

    def whole() -> object:
        return torch.autograd.grad(eager(h_s @ w_s.t(), h_t @ w_t.t()), leaves)

    def chunked() -> object:
        return torch.autograd.grad(kernels.linear_softmax_kl((h_s, w_s), (h_t, w_t), T), leaves)

    m = medians({"ours": chunked, "eager": whole}, seconds, least=3)
    held = (h_s.numel() + w_s.numel()) * 4  # the two gradients, which both must return
    a, b = peak_bytes(chunked), peak_bytes(whole)
    print(
        f"\nlinear_softmax_kl, {tokens} tokens, hidden {width}, vocabulary {vocab}\n"
        f"  {m['ours']:.2f} s, {m['eager'] / m['ours']:.2f}x the speed of eager; memory "
        f"{a / 2**20:.0f} MiB, {b / a:.1f}x less "
        f"({(b - held) / (a - held):.1f}x beyond the gradients that both return)"
    )


def lowrank(seconds: float) -> None:
    print("\nlowrank_linear            vs two F.linear   vs dense   ideal   chosen")
    torch.set_grad_enabled(False)
    for inner, rank, out in [(768, 192, 768), (768, 256, 3072), (256, 64, 256)]:
        for rows in (1, 16, 128, 512):
            for dtype in (torch.float32, torch.bfloat16):
                x, bias = torch.randn(rows, inner).to(dtype), torch.randn(out).to(dtype)
                v, u = (
                    torch.randn(rank, inner).to(dtype) / 30,
                    torch.randn(out, rank).to(dtype) / 30,
                )
                dense = u @ v
                a = (x, v, u, bias)
                m = medians(
                    {
                        "ours": lambda a=a: kernels.lowrank_linear(*a),
                        "pair": lambda a=a: F.linear(F.linear(a[0], a[1]), a[2], a[3]),
                        "dense": lambda a=a, w=dense: F.linear(a[0], w, a[3]),
                    },
                    seconds,
                )
                shape = f"{inner}-{rank}-{out}"
                chosen = [r.implementation for r in dispatch.table() if shape in r.operator]
                print(
                    f"  {rows:4} x {shape} {str(dtype)[6:]:9}"
                    f"{m['pair'] / m['ours']:9.2f}x {m['dense'] / m['ours']:12.2f}x "
                    f"{inner * out / (rank * (inner + out)):6.2f}x   {(chosen or ['torch'])[-1]}"
                )
    torch.set_grad_enabled(True)


class Digits(torch.nn.Sequential):
    """A small convolutional net for 8x8 digits."""

    def __init__(self) -> None:
        super().__init__(
            torch.nn.Conv2d(1, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, padding=1, stride=2),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(512, 10),
        )


class Transformer(torch.nn.Module):
    """Six layers and a vocabulary of 32000."""

    def __init__(self, vocab: int = 32000, width: int = 256, depth: int = 6) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.embedding = torch.nn.Embedding(vocab, width)
        self.encoder = torch.nn.TransformerEncoder(layer, depth)
        self.head = torch.nn.Linear(width, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[batch * length, vocab]`."""
        return self.head(self.encoder(self.embedding(tokens))).flatten(0, 1)


def step(seconds: float) -> None:
    print("\na whole distillation step         vs the same with eager loss")
    cases = [
        ("digits CNN, batch 256", Digits(), torch.randn(256, 1, 8, 8), 10),
        ("transformer, 4 x 64 tokens", Transformer(), torch.randint(32000, (4, 64)), 32000),
    ]
    for name, model, batch, vocab in cases:
        teacher = torch.randn(256, vocab)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

        def train(
            loss: Callable[[Tensor, Tensor], Tensor], m=model, x=batch, t=teacher, o=optimizer
        ):
            o.zero_grad()
            loss(m(x), t).backward()
            o.step()

        ways = {"ours": lambda f=train: f(ours), "eager": lambda f=train: f(eager)}
        m = medians(ways, seconds)
        print(f"  {name:30} {m['eager'] / m['ours']:8.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="softmax,memory,linear,lowrank,step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    seconds = 1.0 if options.quick else 4.0
    print(
        f"{platform.processor() or platform.machine()}, {native.REASON}, torch {torch.__version__},"
    )
    print(f"{options.threads} thread(s), load {os.getloadavg()[0]:.1f}")
    only = options.only.split(",")
    if "softmax" in only:
        softmax(seconds, SIZES[:-1] if options.quick else SIZES)
    if "memory" in only:
        memory()
    if "linear" in only:
        linear(seconds)
        linear(seconds, tokens=256, width=256, vocab=256000)  # whole rows, 128 tokens
        linear(seconds, tokens=256, width=256, vocab=320000)  # pieces of the vocabulary
    if "lowrank" in only:
        lowrank(seconds / 8)
    if "step" in only:
        step(seconds)


if __name__ == "__main__":
    main()
