"""lowrank_linear and its int8 sibling against float64, and what decides who multiplies."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from emulated import on_a_gpu

from compressc.kernels import (
    cuda,
    dispatch,
    int8_lowrank_linear,
    lowrank,
    lowrank_linear,
    lowrank_ops,
    quantize_rows,
)

SHAPES = [(1, 8, 3, 5), (3, 33, 7, 17), (16, 64, 16, 64), (40, 100, 20, 31), (0, 8, 3, 5)]


def factors(rows: int, inner: int, rank: int, out: int):
    x, v, u = (
        torch.randn(rows, inner),
        torch.randn(rank, inner) / inner**0.5,
        torch.randn(out, rank),
    )
    return x, v, u, torch.randn(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("way", ["torch", "onednn", "cuda-emulated"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_same_product_by_every_implementation(monkeypatch, dtype, way, with_bias):
    if way == "cuda-emulated" and dtype == torch.float64:
        pytest.skip("the GPU kernels have no float64")
    torch.manual_seed(0)
    monkeypatch.setattr(lowrank, "_measure", lambda *_: (way, "forced"))
    monkeypatch.setattr(lowrank, "_SMALLEST", 1)
    for size in SHAPES:
        x, v, u, bias = (tensor.to(dtype) for tensor in factors(*size))
        bias = bias if with_bias else None
        with on_a_gpu() if way == "cuda-emulated" else nullcontext():
            multiply = cuda.lowrank_linear if way == "cuda-emulated" else lowrank_linear
            got = multiply(x, v, u, bias)
        exact = x.double() @ v.double().T @ u.double().T + (0 if bias is None else bias.double())
        plain = F.linear(F.linear(x, v), u, bias)
        assert got.shape == plain.shape
        assert got.dtype == dtype
        if len(x):
            error, allowed = (got - exact).abs().max(), 2 * (plain - exact).abs().max() + 1e-6
            assert error <= allowed


def test_leading_dimensions_and_gradients_are_those_of_two_linears():
    x, v, u, bias = factors(24, 16, 4, 9)
    x = x.reshape(2, 3, 4, 16).requires_grad_()
    v.requires_grad_()
    got = torch.autograd.grad(lowrank_linear(x, v, u, bias).square().sum(), (x, v))
    want = torch.autograd.grad(F.linear(F.linear(x, v), u, bias).square().sum(), (x, v))
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_the_choice_is_measured_once_and_shown(monkeypatch):
    monkeypatch.setattr(lowrank, "LINEAR", {})
    monkeypatch.setattr(lowrank, "_SMALLEST", 1000)
    x, v, u, bias = factors(40, 64, 16, 64)
    lowrank_linear(x, v, u, bias)
    ((shape, (chosen, reason)),) = lowrank.LINEAR.items()
    assert tuple(shape[:4]) == (64, 64, 16, 64)
    assert chosen in ("torch", "onednn")
    assert "speed" in reason
    shown = [row for row in dispatch.table() if row.operator.startswith("lowrank_linear [64-16-64")]
    assert shown[0].implementation == chosen
    monkeypatch.setattr(lowrank, "_measure", lambda *_: pytest.fail("measured twice"))
    lowrank_linear(x[:33], v, u, bias)


def test_nothing_is_measured_for_training_tracing_or_determinism(monkeypatch):
    monkeypatch.setattr(lowrank, "_measure", lambda *_: pytest.fail("measured"))
    x, v, u, bias = factors(40, 64, 16, 64)
    x.requires_grad_()
    lowrank_linear(x.detach(), v, u, bias)
    monkeypatch.setattr(lowrank, "_SMALLEST", 1)
    lowrank_linear(x, v, u, bias)
    torch.use_deterministic_algorithms(True)
    try:
        lowrank_linear(x.detach(), v, u, bias)
    finally:
        torch.use_deterministic_algorithms(False)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return lowrank_linear(x, v, u, bias)

    program = torch.export.export(Layer(), (x.detach(),))
    targets = [str(node.target) for node in program.graph.nodes]
    assert not any("lowrank" in target for target in targets), "a trace shows two plain layers"
    torch.testing.assert_close(program.module()(x.detach()), lowrank_linear(x, v, u, bias))


def test_the_operator_is_the_function():
    x, v, u, bias = factors(4, 64, 16, 64)
    torch.library.opcheck(torch.ops.compressc.lowrank_linear, (x, v, u, bias))
    torch.testing.assert_close(
        torch.ops.compressc.lowrank_linear(x, v, u, bias), lowrank_linear(x, v, u, bias)
    )


def test_without_onednn_it_is_plain_torch(monkeypatch):
    monkeypatch.setattr(lowrank, "_linear_pointwise", lambda: None)
    monkeypatch.setattr(lowrank, "_SMALLEST", 1)
    x, v, u, bias = factors(40, 64, 16, 64)
    assert torch.equal(lowrank_linear(x, v, u, bias), F.linear(F.linear(x, v), u, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_the_product_of_the_widened_factors(implementation, dtype):
    torch.manual_seed(1)
    for size in SHAPES:
        x, v, u, bias = factors(*size)
        x, qv, qu = x.to(dtype), quantize_rows(v), quantize_rows(u)
        got = int8_lowrank_linear(x, qv, qu, bias)
        wide_v, wide_u = (q.double() * s.double()[:, None] for q, s in (qv, qu))
        exact = x.double() @ wide_v.T @ wide_u.T + bias.double()
        assert got.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 4e-2
        torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance)
        if size[0]:
            whole = x.double() @ v.double().T @ u.double().T + bias.double()
            assert (exact - whole).norm() < 0.02 * whole.norm()


def test_int8_gradient_and_operator(implementation):
    x, v, u, bias = factors(4, 33, 7, 17)
    qv, qu = quantize_rows(v), quantize_rows(u)
    arguments = (x.requires_grad_(), *qv, *qu, bias.requires_grad_())
    torch.library.opcheck(torch.ops.compressc.int8_lowrank_linear, arguments)
    got = torch.autograd.grad(int8_lowrank_linear(x, qv, qu, bias).sum(), (x, bias))
    weight = (qu[0] * qu[1][:, None]) @ (qv[0] * qv[1][:, None])
    torch.testing.assert_close(got[0], weight.sum(0).expand(4, 33))
    torch.testing.assert_close(got[1], torch.full((17,), 4.0))


def test_a_row_of_zeros_quantizes_to_zeros():
    quantized, scale = quantize_rows(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert quantized.tolist() == [[0, 0], [64, -127]]
    torch.testing.assert_close(scale, torch.tensor([1.0, 2.0 / 127]))
    assert lowrank_ops.INT8_ROWS > 1
