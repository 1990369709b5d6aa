"""The registered operators under torch's own checks, compile, export, func and autocast."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels import TopK, dispatch, softmax_kl

WEIGHT = torch.tensor([1.0, 0.0, 2.0])


def arguments_of(name: str, student: Tensor) -> tuple[object, ...]:
    teacher = torch.randn_like(student)
    if name == "softmax_kl_topk":
        return (*TopK.of(teacher, 4, 2.0), 2.0)
    if name == "softmax_kl_ce":
        return teacher, torch.tensor([3, -100, 19]), 2.0, 0.5, 0.1
    return teacher, 2.0, "reverse"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("name", dispatch.LOSSES)
def test_opcheck(dtype, weight, name):
    student = torch.randn(3, 20, dtype=dtype, requires_grad=True)
    arguments = (*arguments_of(name, student.detach()), weight)
    torch.library.opcheck(getattr(torch.ops.compressc, name), (student, *arguments))
    backward = getattr(torch.ops.compressc, f"{name}_backward")
    torch.library.opcheck(backward, (torch.rand(3), student.detach(), *arguments))


class Loss(torch.nn.Module):
    def forward(self, student, teacher):
        return softmax_kl(student, teacher, 2.0, reduction="mean")


def test_export_keeps_one_operator_and_a_dynamic_batch():
    batch = torch.export.Dim("batch", min=2)
    shapes = {"student": {0: batch}, "teacher": {0: batch}}
    example = (torch.randn(4, 20), torch.randn(4, 20))
    program = torch.export.export(Loss(), example, dynamic_shapes=shapes)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("compressc.softmax_kl.default") == 1
    other = (torch.randn(7, 20), torch.randn(7, 20))
    torch.testing.assert_close(program.module()(*other), softmax_kl(*other, 2.0).mean())


def test_compile_gives_the_same_loss_and_gradient():
    compiled = torch.compile(Loss(), backend="aot_eager", fullgraph=True)
    student, teacher = torch.randn(4, 20).requires_grad_(), torch.randn(4, 20)
    losses, grads = [], []
    for function in (Loss(), compiled):
        losses.append(function(student, teacher))
        grads.append(torch.autograd.grad(losses[-1] * 2, student)[0])
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(grads[0], grads[1])


def test_torch_func_grad_and_autocast():
    student, teacher = torch.randn(4, 20), torch.randn(4, 20)
    grad = torch.func.grad(lambda s: softmax_kl(s, teacher, 2.0).sum())(student)
    leaf = student.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = softmax_kl(leaf, teacher.bfloat16(), 2.0)
    assert loss.dtype == torch.float32
    want = torch.autograd.grad(softmax_kl(leaf, teacher, 2.0).sum(), leaf)[0]
    torch.testing.assert_close(grad, want)
    rows = torch.func.vmap(lambda a, b: softmax_kl(a[None], b[None], 2.0)[0])(student, teacher)
    torch.testing.assert_close(rows, softmax_kl(student, teacher, 2.0))


def test_dispatch_says_what_it_chose_and_why():
    rows = dispatch.table()
    assert {row.operator.split(" ")[0] for row in rows} == {
        *dispatch.OPERATORS,
        "lowrank_linear",
        "gpu",
    }
    wide = [row for row in rows if "float64" in row.operator]
    assert all(row.implementation == "reference" and "float64" in row.reason for row in wide)
    with dispatch.using("reference"):
        losses = [row for row in dispatch.table() if row.operator.startswith("softmax")]
        assert {row.implementation for row in losses} == {"reference"}
    with dispatch.using("abacus"), pytest.raises(CompresscError) as caught:
        dispatch.table()
    assert caught.value.code == "CC100"


def test_importing_the_kernels_imports_no_triton():
    code = "import sys, compressc.kernels; print('triton' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
