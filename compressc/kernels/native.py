"""The C++ kernels, called with the addresses of CPU tensors."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor

from compressc.kernels.problem import Problem

#: The element types of csrc/include/compressc/dtype.h.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


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


def softmax_kl(problem: Problem, want_grad: bool) -> tuple[Tensor, Tensor | None]:
    """Loss `[B]` and, if wanted, the gradient `[B, V]` of its sum; see `reference.softmax_kl`."""
    assert MODULE is not None
    student, teacher, temperature, weight, scale = problem
    student, teacher = _rows(student), _rows(teacher)
    rows, vocab = student.shape
    loss = torch.empty(rows, dtype=torch.float32)
    grad = torch.empty_like(student, memory_format=torch.contiguous_format) if want_grad else None
    if weight is not None:
        weight = weight.to(torch.float32).contiguous()
    MODULE.softmax_kl(
        student.data_ptr(),
        DTYPES[student.dtype],
        student.stride(0),
        teacher.data_ptr(),
        DTYPES[teacher.dtype],
        teacher.stride(0),
        0 if weight is None else weight.data_ptr(),
        loss.data_ptr(),
        0 if grad is None else grad.data_ptr(),
        rows,
        vocab,
        temperature,
        scale,
        torch.get_num_threads(),
    )
    return loss, grad


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


def _rows(logits: Tensor) -> Tensor:
    """Rows may lie apart, but the elements of one must be neighbours."""
    return logits if logits.shape[1] < 2 or logits.stride(1) == 1 else logits.contiguous()
