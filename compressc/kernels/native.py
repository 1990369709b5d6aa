"""The C++ kernels, called with the addresses of CPU tensors."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels.losses.problem import Problem, TopK, gradient_of, rows_of

#: The element types of csrc/include/compressc/dtype.h.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
#: `Direction` of csrc/include/compressc/kernels.h.
DIRECTIONS = {"forward": 0, "reverse": 1, "jensen_shannon": 2}


def _load() -> tuple[ModuleType | None, str]:
    # torch is imported above: its OpenMP runtime is then the one this module is bound to.
    try:
        module = importlib.import_module("compressc.kernels._native")
    except ModuleNotFoundError:
        return None, "not built (COMPRESSC_NATIVE=0, or no CMake and C++ compiler at install)"
    except ImportError as error:
        return None, f"built, but does not load: {error}"
    return module, f"C++, {module.instruction_set()}"


#: The extension module, or None, and why.
MODULE, REASON = _load()


def rows_loss(
    problem: Problem, want_grad: bool, reduce: bool, in_place: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Loss `[B]` (its sum `[]` with `reduce`) and, if wanted, the gradient `[B, V]` of the sum.

    With `in_place` the gradient overwrites the student's logits, which must be contiguous.

    Raises:
        CompresscError: CC204, for a label or an index that is not below V.
    """
    if isinstance(problem.teacher, TopK):
        return _topk_kl(problem, problem.teacher, (want_grad, reduce, in_place))
    assert MODULE is not None
    _, _, temperature, weight, direction, labels, kl_share, smoothing, scale = problem
    student, teacher = rows_of(problem.student), rows_of(problem.teacher)
    rows, vocab = student.shape
    # The losses one by one, or only their sum.
    loss = torch.empty(() if reduce else (rows,), dtype=torch.float32, device=student.device)
    grad = gradient_of(student, in_place) if want_grad else None
    if weight is not None:
        weight = weight.to(torch.float32).contiguous()
    if labels is not None:
        labels = labels.to(torch.int64).contiguous()
    good = MODULE.softmax_kl(
        student.data_ptr(),
        DTYPES[student.dtype],
        student.stride(0),
        teacher.data_ptr(),
        DTYPES[teacher.dtype],
        teacher.stride(0),
        0 if weight is None else weight.data_ptr(),
        0 if labels is None else labels.data_ptr(),
        0 if reduce else loss.data_ptr(),
        loss.data_ptr() if reduce else 0,
        0 if grad is None else grad.data_ptr(),
        rows,
        vocab,
        DIRECTIONS[direction],
        temperature,
        scale,
        kl_share,
        smoothing,
        torch.get_num_threads(),
    )
    if not good:
        raise _out_of_vocabulary("labels", vocab)
    return loss, grad


def _topk_kl(
    problem: Problem, teacher: TopK, want: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor | None]:
    assert MODULE is not None
    want_grad, reduce, in_place = want
    student, weight = rows_of(problem.student), problem.weight
    if weight is not None:
        weight = weight.to(torch.float32).contiguous()
    values, tail = teacher.values.float().contiguous(), teacher.tail.float().contiguous()
    indices = teacher.indices.to(torch.int64).contiguous()
    rows, vocab = student.shape
    loss = torch.empty(rows, dtype=torch.float32, device=student.device)
    grad = gradient_of(student, in_place) if want_grad else None
    good = MODULE.topk_kl(
        student.data_ptr(),
        DTYPES[student.dtype],
        student.stride(0),
        values.data_ptr(),
        indices.data_ptr(),
        tail.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        loss.data_ptr(),
        0 if grad is None else grad.data_ptr(),
        rows,
        vocab,
        values.shape[1],
        problem.temperature,
        problem.scale,
        torch.get_num_threads(),
    )
    if not good:
        raise _out_of_vocabulary("indices", vocab)
    return (loss.sum() if reduce else loss), grad


def _out_of_vocabulary(what: str, vocab: int) -> CompresscError:
    return CompresscError("CC204", f"{what} must be below the vocabulary size", got=str(vocab))


def scale_rows(data: Tensor, scale: Tensor) -> None:
    """Multiply row i of a contiguous `[B, V]` tensor by `scale[i]`, in place."""
    assert MODULE is not None
    scale = scale.to(torch.float32).contiguous()
    rows, columns = data.shape
    MODULE.scale_rows(
        data.data_ptr(),
        DTYPES[data.dtype],
        scale.data_ptr(),
        rows,
        columns,
        torch.get_num_threads(),
    )


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ (weight * scale[:, None]).T + bias`, float32 `[rows, out]` of float32 `[rows, in]`."""
    assert MODULE is not None
    x, weight = x.contiguous(), weight.contiguous()
    scale = scale.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    (rows, inner), out = x.shape, weight.shape[0]
    y = x.new_empty(rows, out, dtype=torch.float32)
    MODULE.int8_linear(
        x.data_ptr(),
        weight.data_ptr(),
        scale.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        rows,
        inner,
        out,
        torch.get_num_threads(),
    )
    return y


def has_lowrank_linear(dtype: torch.dtype) -> bool:
    """Whether the fused kernel is here for this dtype; bfloat16 wants a processor that has it."""
    return MODULE is not None and dtype in DTYPES and MODULE.has_lowrank_linear(DTYPES[dtype])


def lowrank_linear(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ v.T @ u.T + bias`, `[..., out]` of `[..., in]`, in one call.

    All of one dtype, one for which `has_lowrank_linear`, and no size 0.
    """
    return lowrank_multiplier(x.shape, v.shape[0], u.shape[0], x.dtype)(x, v, u, bias)


def lowrank_multiplier(
    size: torch.Size, rank: int, out: int, dtype: torch.dtype
) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """`lowrank_linear` for x of this size and this rank: for a small layer the sizes cost as much
    to find out as the product."""
    assert MODULE is not None
    multiply, kind, threads = MODULE.lowrank_linear, DTYPES[dtype], torch.get_num_threads()
    inner, result = size[-1], (*size[:-1], out)
    rows = size.numel() // inner

    def run(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> Tensor:
        x, v, u = x.contiguous(), v.contiguous(), u.contiguous()
        bias = None if bias is None else bias.contiguous()
        y = x.new_empty(*result)
        good = multiply(
            x.data_ptr(),
            v.data_ptr(),
            u.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            y.data_ptr(),
            rows,
            inner,
            rank,
            out,
            kind,
            threads,
        )
        assert good, "the instruction set in use has no such kernel"
        return y

    return run
