"""Runs the Triton kernels in Triton's interpreter, on the CPU; started by test_triton.py.

A process of its own, because TRITON_INTERPRET is read when a kernel is defined. It proves the logic
of the kernels and nothing about a GPU's speed.
"""

import os
import sys
import warnings
from contextlib import contextmanager

os.environ["TRITON_INTERPRET"] = "1"

import torch

from compressc import kernels
from compressc.kernels import dispatch, reference
from compressc.kernels.gradients import rows_grad
from compressc.kernels.problem import Problem
from compressc.kernels.triton import softmax_kl

INF = float("inf")
SHAPES = [(1, 1), (3, 10), (2, 9001)]
MORE = [(5, 17), (2, 1000), (2, 4096), (1, 32000)]


def check(problem: Problem, unit: float) -> None:
    """Loss and gradient next to the closed forms in float64."""
    loss, grad = softmax_kl.rows_loss(problem, True, False)
    wide = problem._replace(student=problem.student.double(), teacher=problem.teacher.double())
    exact, exact_grad = reference.rows_loss(wide), rows_grad(wide)
    t2 = max(problem.temperature**2, 1.0)
    torch.testing.assert_close(loss.double(), exact, rtol=2e-6, atol=2e-7 * t2)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=2 * unit, atol=2e-7 * t2)
    only, nothing = softmax_kl.rows_loss(problem, False, True)
    assert nothing is None
    torch.testing.assert_close(only, loss.sum())


def main() -> None:
    warnings.simplefilter(
        "ignore", RuntimeWarning
    )  # numpy's, about the infinities of masked logits
    torch.manual_seed(0)
    for dtype, unit in ((torch.float32, 2**-20), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        for rows, vocab in SHAPES + MORE * ("--all" in sys.argv):
            for temperature, size in ((0.5, 1.0), (4.0, 10.0), (1.0, 1e-3)):
                student, teacher = (torch.randn(2, rows, vocab) * size).to(dtype).unbind()
                check(Problem(student, teacher, temperature), unit)
                weight = torch.rand(rows)
                weight[0] = 0
                check(Problem(student, teacher, temperature, weight, scale=0.25), unit)
    student, teacher = torch.randn(4, 5000), torch.randn(4, 5000) + 1e4
    student[0], teacher[1] = -INF, -INF
    student[2, :4500] = teacher[2, :4500] = -INF
    check(Problem(student, teacher, 2.0), 2**-20)
    student[3, 7] = float("nan")
    loss, _ = softmax_kl.rows_loss(Problem(student, teacher, 2.0), False, False)
    assert torch.isnan(loss).tolist() == [False, False, False, True]
    assert loss[:2].tolist() == [0.0, 0.0]
    wide = torch.randn(6, 200)
    check(Problem(wide[::2, :100], wide.t()[:100, :3].t(), 2.0), 2**-20)
    whole_way()
    print("interpreted: ok")


def whole_way() -> None:
    """From the public function through dispatch and back to a gradient."""
    with pretend_gpu():
        student, teacher = torch.randn(4, 100).requires_grad_(), torch.randn(4, 100)
        upstream = torch.tensor([1.0, 2.0, 3.0, 4.0])
        loss = kernels.softmax_kl(student, teacher, 2.0)
        (grad,) = torch.autograd.grad(loss, student, upstream)
    want = rows_grad(Problem(student.detach(), teacher, 2.0, upstream))
    torch.testing.assert_close(grad, want)


@contextmanager
def pretend_gpu():
    """Let dispatch choose as if the tensors were on a GPU."""
    choose = dispatch._choose
    dispatch._choose = lambda operator, _, dtypes, forced: choose(operator, "cuda", dtypes, forced)
    try:
        assert dispatch.choose("softmax_kl", torch.device("cpu")).implementation == "triton"
        assert dispatch.choose("softmax_kl_ce", torch.device("cpu")).implementation == "reference"
        yield
    finally:
        dispatch._choose = choose


if __name__ == "__main__":
    sys.exit(main())
