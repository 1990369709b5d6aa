"""Low-rank products to test with, their float64 values, and the forms of the fused kernel."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from compressc.kernels import native

ISAS = ("avx512", "avx2", "portable")
#: The forms that the fused kernel has.
FORMS = [("avx512", torch.bfloat16), *[(isa, torch.float32) for isa in ISAS]]


@contextmanager
def instruction_set(name: str, dtype: torch.dtype) -> Iterator[None]:
    """The fused kernel in this form; skips where there is none."""
    if native.MODULE is None:
        pytest.skip(native.REASON)
    before = native.MODULE.instruction_set()
    try:
        if not native.MODULE.use_instruction_set(name):
            pytest.skip(f"this processor has no {name}")
        if not native.has_lowrank_linear(dtype):
            pytest.skip(f"{name} has no fused kernel for {dtype}")
        yield
    finally:
        native.MODULE.use_instruction_set(before)


def factors(rows: int, inner: int, rank: int, out: int):
    x, v, u = (
        torch.randn(rows, inner),
        torch.randn(rank, inner) / inner**0.5,
        torch.randn(out, rank),
    )
    return x, v, u, torch.randn(out)


def exactly(x, v, u, bias):
    return x.double() @ v.double().T @ u.double().T + (0 if bias is None else bias.double())


def errors(got, x, v, u, bias) -> tuple[float, float]:
    """The largest error, and that of two `F.linear`."""
    exact, plain = exactly(x, v, u, bias), F.linear(F.linear(x, v), u, bias)
    assert got.shape == plain.shape
    assert got.dtype == plain.dtype
    if not got.numel():
        return 0.0, 0.0
    return (got - exact).abs().max().item(), (plain - exact).abs().max().item()


def assert_close(got, x, v, u, bias) -> None:
    ours, plain = errors(got, x, v, u, bias)
    assert ours <= 2 * plain + 1e-6
