"""The CUDA C++ kernels, started with the addresses of GPU tensors through a plain C library.

The library exists where `COMPRESSC_CUDA=1` was set when compressc was installed. The tests load one
made of the same sources by a host compiler (csrc/cuda/emulation.h) and hand it CPU tensors.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels.losses.problem import Problem, TopK, gradient_of, rows_of
from compressc.kernels.native import DIRECTIONS, DTYPES

PATH = Path(__file__).with_name("libcompressc_cuda.so")


class _SoftmaxKl(ctypes.Structure):
    """`SoftmaxKl` of csrc/include/compressc/kernels.h."""

    _fields_: ClassVar[Any] = [
        *[(name, c_void_p) for name in ("student", "teacher", "weight", "loss", "grad", "total")],
        ("labels", c_void_p),
        *[(name, c_int64) for name in ("rows", "vocab", "student_stride", "teacher_stride")],
        *[(name, c_int) for name in ("student_type", "teacher_type", "direction")],
        *[(name, c_float) for name in ("temperature", "scale", "kl_share", "smoothing")],
    ]


class _TopkKl(ctypes.Structure):
    """`TopkKl` of csrc/include/compressc/kernels.h."""

    _fields_: ClassVar[Any] = [
        *[(name, c_void_p) for name in ("student", "values", "indices", "tail", "weight", "loss")],
        ("grad", c_void_p),
        *[(name, c_int64) for name in ("rows", "vocab", "k", "student_stride")],
        ("student_type", c_int),
        *[(name, c_float) for name in ("temperature", "scale")],
    ]


class _LowrankLinear(ctypes.Structure):
    """`LowrankLinear` of csrc/cuda/interface.h."""

    _fields_: ClassVar[Any] = [
        *[(name, c_void_p) for name in ("x", "v", "u", "bias", "y")],
        *[(name, c_int64) for name in ("rows", "inner", "rank", "out")],
        ("type", c_int),
    ]


class _ScaleRows(ctypes.Structure):
    """`ScaleRows` of csrc/cuda/interface.h."""

    _fields_: ClassVar[Any] = [
        *[(name, c_void_p) for name in ("data", "scale")],
        *[(name, c_int64) for name in ("rows", "columns", "scale_stride")],
        ("type", c_int),
    ]


_STARTS = {
    "compressc_cuda_softmax_kl": _SoftmaxKl,
    "compressc_cuda_topk_kl": _TopkKl,
    "compressc_cuda_lowrank_linear": _LowrankLinear,
    "compressc_cuda_scale_rows": _ScaleRows,
}


def load(path: Path = PATH) -> tuple[ctypes.CDLL | None, str]:
    """The library at `path`, or None, and why."""
    if not path.exists():
        return None, "not built (COMPRESSC_CUDA=1 at install builds it, with a CUDA toolkit)"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"built, but does not load: {error}"
    for number, (name, structure) in enumerate(_STARTS.items()):
        size = library.compressc_cuda_size
        size.restype = c_int64
        if size(c_int(number)) != ctypes.sizeof(structure):
            return None, "built from sources of another version"
        getattr(library, name).argtypes = [ctypes.POINTER(structure), c_void_p]
    library.compressc_cuda_error.restype = ctypes.c_char_p
    return library, "CUDA C++"


#: The library, or None, and why.
LIBRARY, REASON = load()


def rows_loss(
    problem: Problem, want_grad: bool, reduce: bool, in_place: bool = False
) -> tuple[Tensor, Tensor | None]:
    """As `native.rows_loss`, without waiting for the device.

    A label or index that is not below V makes its row NaN: to raise, one would have to wait.
    """
    student, teacher = rows_of(problem.student), problem.teacher
    rows, vocab = student.shape
    loss = torch.empty(rows, dtype=torch.float32, device=student.device)
    grad = gradient_of(student, in_place) if want_grad else None
    weight = None if problem.weight is None else problem.weight.float().contiguous()
    common = {
        "student": student.data_ptr(),
        "weight": _address(weight),
        "loss": loss.data_ptr(),
        "grad": _address(grad),
        "rows": rows,
        "vocab": vocab,
        "student_stride": student.stride(0),
        "student_type": DTYPES[student.dtype],
        "temperature": problem.temperature,
        "scale": problem.scale,
    }
    if isinstance(teacher, TopK):
        values, tail = teacher.values.float().contiguous(), teacher.tail.float().contiguous()
        indices = teacher.indices.to(torch.int64).contiguous()
        addresses = {"values": values.data_ptr(), "indices": indices.data_ptr()}
        _start(
            "compressc_cuda_topk_kl",
            student,
            _TopkKl(**common, **addresses, tail=tail.data_ptr(), k=values.shape[1]),
        )
        return (loss.sum() if reduce else loss), grad
    teacher, labels = rows_of(teacher), problem.labels
    if labels is not None:
        labels = labels.to(torch.int64).contiguous()
    args = _SoftmaxKl(
        **common,
        teacher=teacher.data_ptr(),
        teacher_stride=teacher.stride(0),
        teacher_type=DTYPES[teacher.dtype],
        labels=_address(labels),
        direction=DIRECTIONS[problem.direction],
        kl_share=problem.kl_share,
        smoothing=problem.smoothing,
    )
    _start("compressc_cuda_softmax_kl", student, args)
    return (loss.sum() if reduce else loss), grad


def lowrank_linear(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None = None) -> Tensor:
    """`reference.lowrank_linear` of one dtype, the product of rank r staying in shared memory."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    v, u = v.contiguous(), u.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = torch.empty(rows.shape[0], u.shape[0], dtype=x.dtype, device=x.device)
    args = _LowrankLinear(
        x=rows.data_ptr(),
        v=v.data_ptr(),
        u=u.data_ptr(),
        bias=_address(bias),
        y=y.data_ptr(),
        rows=rows.shape[0],
        inner=rows.shape[1],
        rank=v.shape[0],
        out=u.shape[0],
        type=DTYPES[x.dtype],
    )
    _start("compressc_cuda_lowrank_linear", rows, args)
    return y.reshape(*x.shape[:-1], u.shape[0])


def scale_rows(data: Tensor, scale: Tensor) -> None:
    """As `native.scale_rows`; rows whose factor is 1 are not touched."""
    scale = scale.float()
    args = _ScaleRows(
        data=data.data_ptr(),
        scale=scale.data_ptr(),
        rows=data.shape[0],
        columns=data.shape[1],
        scale_stride=scale.stride(0),
        type=DTYPES[data.dtype],
    )
    _start("compressc_cuda_scale_rows", data, args)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _start(name: str, tensor: Tensor, args: ctypes.Structure) -> None:
    """Start a kernel on the current stream of the tensor's device."""
    assert LIBRARY is not None
    kernel = getattr(LIBRARY, name)
    if tensor.is_cuda:
        with torch.cuda.device(tensor.device):
            stream = torch.cuda.current_stream(tensor.device).cuda_stream
            error = kernel(ctypes.byref(args), stream)
    else:
        error = kernel(ctypes.byref(args), None)
    if error != 0:
        why = LIBRARY.compressc_cuda_error(c_int(error)).decode()
        hint = "COMPRESSC_KERNELS=reference runs plain torch"
        raise CompresscError("CC602", f"the kernel {name} must start", got=why, hint=hint)
