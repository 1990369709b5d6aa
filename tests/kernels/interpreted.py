"""Runs the Triton kernels in Triton's interpreter, on the CPU; started by test_triton.py.

A process of its own, because TRITON_INTERPRET is read when a kernel is defined. It proves the logic
of the kernels and nothing about a GPU's speed.
"""

import os
import sys
import warnings
from contextlib import contextmanager

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from measure import exactly
from triton.runtime import interpreter

from compressc import kernels
from compressc.kernels import TopK, dispatch, reference
from compressc.kernels.losses.gradients import rows_grad
from compressc.kernels.losses.problem import Problem
from compressc.kernels.triton import losses, lowrank_linear, scale_rows

INF = float("inf")
SHAPES = [(1, 1), (3, 10), (2, 4500)]
MORE = [(5, 17), (2, 1000), (2, 4096), (1, 32000)]
CASES = [(4.0, 10.0), (0.5, 1.0), (1.0, 1e-3)]  # temperature, size of the logits
PRODUCTS = [(1, 8, 3, 5), (3, 33, 7, 17), (16, 64, 16, 64), (19, 100, 70, 31)]


def check(problem: Problem, unit: float) -> None:
    """Loss and gradient next to the closed forms in float64."""
    loss, grad = losses.rows_loss(problem, True, False)
    exact, exact_grad = exactly(problem)
    t2 = max(problem.temperature**2, 1.0)
    torch.testing.assert_close(loss.double(), exact, rtol=3e-6, atol=4e-7 * t2)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=2 * unit, atol=4e-7 * t2)
    if problem.student.shape[1] > 100 and "--all" not in sys.argv:
        return
    only, nothing = losses.rows_loss(problem, False, True)
    assert nothing is None
    torch.testing.assert_close(only, loss.sum())
    if problem.student.is_contiguous():
        copy = problem._replace(student=problem.student.clone())
        again, same = losses.rows_loss(copy, True, False, in_place=True)
        assert torch.equal(again, loss)
        assert torch.equal(same, grad)
        assert same.data_ptr() == copy.student.data_ptr()


def kinds(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> list[Problem]:
    """One of each loss."""
    rows, vocab = student.shape
    labels = torch.randint(-1, vocab, (rows,))
    plain = Problem(student, teacher, temperature)
    return [
        plain,
        plain._replace(direction="reverse"),
        plain._replace(direction="jensen_shannon"),
        plain._replace(labels=labels, kl_share=0.7, smoothing=0.1),
        plain._replace(teacher=TopK.of(teacher, min(4, vocab), temperature)),
    ]


def main() -> None:
    warnings.simplefilter(
        "ignore", RuntimeWarning
    )  # numpy's, about the infinities of masked logits
    torch.manual_seed(0)
    everything = "--all" in sys.argv
    for dtype, unit in ((torch.float32, 2**-20), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        shapes = SHAPES if dtype == torch.float32 else SHAPES[:2]
        for rows, vocab in SHAPES + MORE if everything else shapes:
            quick = 2 if dtype == torch.float32 else 1
            for temperature, size in CASES if everything else CASES[:quick]:
                student, teacher = (torch.randn(2, rows, vocab) * size).to(dtype).unbind()
                weight = torch.rand(rows)
                weight[0] = 0
                for problem in kinds(student, teacher, temperature):
                    check(problem, unit)
                    if everything or vocab < 100:
                        check(problem._replace(weight=weight, scale=0.25), unit)
    special_logits()
    wide = torch.randn(6, 200)
    check(Problem(wide[::2, :100], wide.t()[:100, :3].t(), 2.0), 2**-20)
    wrong_places()
    products()
    factors()
    whole_way()
    print("interpreted: ok")


def special_logits() -> None:
    """Masked rows and tokens, an offset, a NaN, an infinite loss."""
    student, teacher = torch.randn(4, 5000), torch.randn(4, 5000) + 1e4
    student[0], teacher[1] = -INF, -INF
    student[2, :4500] = teacher[2, :4500] = -INF
    for problem in kinds(student, teacher, 2.0):
        smooth = problem._replace(smoothing=0.0)  # of masked logits it would be infinite
        if problem.labels is not None:
            smooth = smooth._replace(labels=torch.tensor([4600, 4700, 4800, 4900]))
        check(smooth, 2**-20)
        bad = problem.student.clone()
        bad[3, 7] = float("nan")
        loss, _ = losses.rows_loss(smooth._replace(student=bad), False, False)
        assert torch.isnan(loss).tolist() == [False, False, False, True]
        assert loss[:2].tolist() == [0.0, 0.0]
    student[3, 3] = -INF
    for direction, sides in (("forward", (student, teacher)), ("reverse", (teacher, student))):
        loss, grad = losses.rows_loss(Problem(*sides, 2.0, direction=direction), True, False)
        assert loss[3] == INF
        assert torch.isfinite(grad).all()


def wrong_places() -> None:
    """A label or index outside the vocabulary makes its row NaN."""
    student, teacher = torch.randn(2, 3, 40).unbind()
    topk = TopK.of(teacher, 2)
    topk.indices[1, 0] = 40
    labels = torch.tensor([1, 40, -1])
    for problem in (
        Problem(student, teacher, 1.0, labels=labels, kl_share=0.5),
        Problem(student, topk, 1.0),
    ):
        loss, grad = losses.rows_loss(problem, True, False)
        assert torch.isnan(loss).tolist() == [False, True, False]
        assert torch.isnan(grad).all(dim=1).tolist() == [False, True, False]


def products() -> None:
    """The fused low-rank kernel at most twice as wrong as two plain products (and one rounding).

    bfloat16 gets twice that, because the interpreter cuts where a GPU rounds.
    """
    for dtype, unit in ((torch.float32, 1e-6), (torch.bfloat16, 2**-7), (torch.float16, 2**-11)):
        for rows, inner, rank, out in PRODUCTS:
            x, v, u = torch.randn(rows, inner), torch.randn(rank, inner), torch.randn(out, rank)
            x, v, u, bias = (tensor.to(dtype) for tensor in (x, v, u, torch.randn(out)))
            for added in (bias, None):
                got = lowrank_linear.lowrank_linear(x, v, u, added)
                exact = x.double() @ v.double().T @ u.double().T
                exact = exact if added is None else exact + added.double()
                plain = reference.lowrank_linear(x, v, u, added)
                times = 4 if dtype == torch.bfloat16 else 2
                allowed = times * (plain - exact).abs().max() + unit * exact.abs().max()
                assert got.dtype == dtype
                assert (got - exact).abs().max() <= allowed, (dtype, rows, rank)


def factors() -> None:
    """Rows times factors in place, one for each or one for all."""
    for dtype in (torch.float32, torch.bfloat16):
        for scale in (torch.tensor([1.0, 0.5, -2.0]), torch.tensor(4.0).expand(3)):
            data = torch.randn(3, 1500).to(dtype)
            want = data * scale[:, None].to(dtype)
            scale_rows.scale_rows(data, scale)
            assert torch.equal(data, want)


def whole_way() -> None:
    """From the public function through dispatch and back to a gradient."""
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with pretend_gpu(), dispatch.using("triton"):
        student, teacher = torch.randn(4, 100).requires_grad_(), torch.randn(4, 100)
        loss = kernels.softmax_kl(student, teacher, 2.0)
        (grad,) = torch.autograd.grad(loss, student, upstream)
        h, w = torch.randn(4, 8).requires_grad_(), torch.randn(100, 8)
        whole = kernels.linear_softmax_kl((h, w), (teacher, torch.eye(100)), 2.0)
        (grad_h,) = torch.autograd.grad(whole, h)
    want = rows_grad(Problem(student.detach(), teacher, 2.0, upstream))
    torch.testing.assert_close(grad, want)
    want_h = rows_grad(Problem((h @ w.T).detach(), teacher, 2.0, scale=0.25)) @ w
    torch.testing.assert_close(grad_h, want_h, rtol=1e-4, atol=1e-5)


@contextmanager
def pretend_gpu():
    """Let dispatch choose as if the tensors were on a GPU."""
    choose = dispatch._choose
    dispatch._choose = lambda operator, _, dtypes, forced: choose(operator, "cuda", dtypes, forced)
    try:
        with dispatch.using("triton"):
            for operator in dispatch.GPU:
                row = dispatch.choose(operator, torch.device("cpu"), torch.float32)
                assert row.implementation == "triton"
            many = torch.zeros(1, 2000)
            problem = Problem(many, TopK(many, many.long(), torch.zeros(1)), 1.0)
            assert dispatch.choose_loss(problem).implementation == "reference"
        yield
    finally:
        dispatch._choose = choose


def exact_dot(self, a, b, d, *_):
    """As the interpreter's own, which multiplies the bits of bfloat16 as if they were integers."""

    def values(handle):
        if handle.dtype.scalar.name != "bf16":
            return handle.data
        return (handle.data.astype(np.uint32) << 16).view(np.float32)

    product = np.matmul(values(a), values(b), dtype=np.float32)
    return interpreter.TensorHandle((product + d.data).astype(d.data.dtype), d.dtype.scalar)


if __name__ == "__main__":
    interpreter.InterpreterBuilder.create_dot = exact_dot
    sys.exit(main())
