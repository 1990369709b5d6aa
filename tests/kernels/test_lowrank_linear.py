"""lowrank_linear and its int8 sibling against float64, and what decides who multiplies."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from emulated import on_a_gpu
from products import FORMS, assert_close, factors, instruction_set

from compressc.kernels import (
    cuda,
    dispatch,
    int8_lowrank_linear,
    lowrank_linear,
    native,
    onednn,
    quantize_rows,
)
from compressc.kernels.lowrank import linear, operators

SHAPES = [(1, 8, 3, 5), (3, 33, 7, 17), (16, 64, 16, 64), (40, 100, 20, 31), (0, 8, 3, 5)]
FLOATS = (torch.float32, torch.bfloat16)
WAYS = [
    *[(way, dtype) for way in ("torch", "onednn") for dtype in (*FLOATS, torch.float64)],
    *[(f"native-{isa}", dtype) for isa, dtype in FORMS],
    *[("cuda-emulated", dtype) for dtype in FLOATS],
]


@pytest.fixture
def fresh(monkeypatch) -> None:
    """Nothing measured yet, and nothing too small to be."""
    monkeypatch.setattr(linear, "LINEAR", {})
    monkeypatch.setattr(linear, "_KNOWN", {})
    monkeypatch.setattr(linear, "_SMALLEST", 1)


@pytest.mark.parametrize(("way", "dtype"), WAYS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_same_product_by_every_implementation(monkeypatch, fresh, dtype, way, with_bias):
    torch.manual_seed(0)
    name, _, isa = way.partition("-")
    if name == "onednn" and dtype in FLOATS and not onednn.takes(dtype):
        pytest.skip(f"oneDNN does not multiply {dtype} on this processor")
    monkeypatch.setattr(linear, "_measure", lambda *_: (name, "forced"))
    context = instruction_set(isa, dtype) if name == "native" else nullcontext()
    with on_a_gpu() if way == "cuda-emulated" else context:
        multiply = cuda.lowrank_linear if way == "cuda-emulated" else lowrank_linear
        for size in SHAPES:
            x, v, u, bias = (tensor.to(dtype) for tensor in factors(*size))
            bias = bias if with_bias else None
            assert_close(multiply(x, v, u, bias), x, v, u, bias)


def test_leading_dimensions_and_gradients_are_those_of_two_linears():
    x, v, u, bias = factors(24, 16, 4, 9)
    x = x.reshape(2, 3, 4, 16).requires_grad_()
    v.requires_grad_()
    got = torch.autograd.grad(lowrank_linear(x, v, u, bias).square().sum(), (x, v))
    want = torch.autograd.grad(F.linear(F.linear(x, v), u, bias).square().sum(), (x, v))
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_the_choice_is_measured_once_and_shown(monkeypatch, fresh):
    x, v, u, bias = factors(40, 64, 16, 64)
    lowrank_linear(x, v, u, bias)
    ((shape, (chosen, reason)),) = linear.LINEAR.items()
    assert tuple(shape[:4]) == (64, 64, 16, 64)
    assert chosen in ("native", "torch", "onednn")
    assert "the speed of two F.linear" in reason
    shown = [row for row in dispatch.table() if row.operator.startswith("lowrank_linear [64-16-64")]
    assert shown[0].implementation == chosen
    monkeypatch.setattr(linear, "_measure", lambda *_: pytest.fail("measured twice"))
    lowrank_linear(x[:33], v, u, bias)


@pytest.mark.parametrize(
    ("milliseconds", "chosen", "reason"),
    [
        ((10, 5, 8), "native", "fused kernel 2.00x; oneDNN 1.25x the speed of two F.linear"),
        ((10, 8, 5), "onednn", "fused kernel 1.25x; oneDNN 2.00x the speed of two F.linear"),
        ((10, 20, 9.9), "torch", "fused kernel 0.50x; oneDNN 1.01x the speed of two F.linear"),
    ],
)
def test_the_fastest_is_chosen_and_noise_is_not(monkeypatch, fresh, milliseconds, chosen, reason):
    names = ["torch", "native", "onednn"]
    monkeypatch.setattr(linear, "candidates", lambda _: (names, ""))
    clock = [0.0]

    def way(name, *_):
        def run(*arguments):
            clock[0] += milliseconds[names.index(name)] / 1000
            return linear._torch(*arguments)

        return run

    monkeypatch.setattr(linear, "_way", way)
    monkeypatch.setattr(linear.time, "perf_counter", lambda: clock[0])
    lowrank_linear(*factors(40, 64, 16, 64))
    assert list(linear.LINEAR.values()) == [(chosen, reason)]


def test_onednn_that_refuses_a_layout_is_left_out(monkeypatch, fresh):
    def refuse(*_):
        raise RuntimeError("not this layout\nand so on")

    monkeypatch.setattr(linear, "_onednn", refuse)
    x, v, u, bias = factors(40, 64, 16, 64)
    torch.testing.assert_close(lowrank_linear(x, v, u, bias), F.linear(F.linear(x, v), u, bias))
    ((chosen, reason),) = linear.LINEAR.values()
    assert chosen in ("native", "torch")
    assert "oneDNN refuses: not this layout" in reason


def test_onednn_is_no_candidate_where_the_processor_lacks_the_dtype(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert "onednn" in linear.candidates(torch.float32)[0]
    names, why = linear.candidates(torch.bfloat16)
    assert "onednn" not in names
    assert "no oneDNN operator for this dtype" in why
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert "onednn" in linear.candidates(torch.bfloat16)[0]


def test_the_kernel_is_demanded_or_switched_off(monkeypatch, fresh):
    x, v, u, bias = factors(40, 64, 16, 64)
    monkeypatch.setattr(linear, "_measure", lambda *_: ("native", "forced"))
    calls = []
    monkeypatch.setattr(
        linear.native,
        "lowrank_multiplier",
        lambda *_: lambda *arguments: calls.append(1) or linear._torch(*arguments),
    )
    lowrank_linear(x, v, u, bias)
    assert len(calls) == 1
    with dispatch.using("reference"):
        lowrank_linear(x, v, u, bias)
        rows = {row.operator: row.implementation for row in dispatch.table()}
        assert rows["lowrank_linear [cpu, float32]"] == "torch"
    assert len(calls) == 1
    monkeypatch.setattr(linear, "_measure", lambda *_: pytest.fail("measured"))
    with dispatch.using("native"):
        lowrank_linear(x[:5], v, u, bias)
    assert len(calls) == (1 if native.MODULE is None else 2)


def test_the_table_says_which_ways_there_are():
    rows = {row.operator: row for row in dispatch.table()}
    assert "other dtypes" in rows["lowrank_linear"].reason
    for kind, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        row = rows[f"lowrank_linear [cpu, {kind}]"]
        assert ("native" in row.reason.split(" at the first")[0]) == native.has_lowrank_linear(
            dtype
        )


def test_the_kernel_keeps_out_of_gradients_traces_and_modes(monkeypatch, fresh):
    monkeypatch.setattr(linear, "_choose", lambda *_: pytest.fail("chosen"))
    x, v, u, bias = factors(40, 64, 16, 64)
    plain = F.linear(F.linear(x, v), u, bias)

    def run(x):
        return lowrank_linear(x, v, u, bias)

    assert torch.equal(run(x.clone().requires_grad_()), plain)
    assert lowrank_linear(x, torch.nn.Parameter(v), u, bias).requires_grad
    traced = torch.jit.trace(run, x, check_trace=False)
    assert not torch.equal(traced(2 * x), plain), "a constant was recorded"
    torch.testing.assert_close(torch.vmap(run)(x), plain)
    tangent = torch.func.jvp(run, (x,), (x,))[1]
    torch.testing.assert_close(tangent, F.linear(F.linear(x, v), u))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        assert torch.autograd.forward_ad.unpack_dual(run(dual)).tangent is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(x).dtype == torch.bfloat16
    assert lowrank_linear(x.half(), v.half(), u.half(), bias.half()).dtype == torch.float16
    with pytest.raises(RuntimeError):
        lowrank_linear(x, v.double(), u, bias)
    meta = lowrank_linear(*(tensor.to("meta") for tensor in (x, v, u, bias)))
    assert meta.shape == plain.shape


def test_what_does_not_fit_is_refused_by_torch(fresh):
    x, v, u, bias = factors(40, 64, 16, 64)
    for bad in ((x[:, :63], v, u, bias), (x, v[:15], u, bias), (x, v, u, bias[:63])):
        with pytest.raises(RuntimeError):
            lowrank_linear(*bad)
    assert lowrank_linear(x[:0], v, u, bias).shape == (0, 64)
    assert torch.equal(lowrank_linear(x, v[:0], u[:, :0], bias), bias.expand(40, 64))
    assert linear.LINEAR == {}


def test_nothing_is_measured_for_training_tracing_or_determinism(monkeypatch, fresh):
    monkeypatch.setattr(linear, "_measure", lambda *_: pytest.fail("measured"))
    x, v, u, bias = factors(40, 64, 16, 64)
    x.requires_grad_()
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


def test_without_kernel_and_onednn_it_is_plain_torch(monkeypatch, fresh):
    monkeypatch.setattr(onednn, "operator", lambda: None)
    monkeypatch.setattr(native, "MODULE", None)
    monkeypatch.setattr(native, "REASON", "not built")
    x, v, u, bias = factors(40, 64, 16, 64)
    assert torch.equal(lowrank_linear(x, v, u, bias), F.linear(F.linear(x, v), u, bias))
    why = (
        "no fused kernel for this dtype: not built; "
        "no oneDNN operator for this dtype on this processor"
    )
    assert list(linear.LINEAR.values()) == [("torch", why)]


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
    assert operators.INT8_ROWS > 1
