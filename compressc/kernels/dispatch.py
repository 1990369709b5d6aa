"""Which implementation runs an operator, and why: the only place that chooses.

On a CPU: native. On a CUDA device: cuda, which exists only where somebody built it on purpose and
which needs no compiler when it runs; then triton. Anything else: reference. `COMPRESSC_KERNELS` in
the environment (reference, native, cuda or triton), or `with using("reference")`, overrules it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch

from compressc.errors import CompresscError
from compressc.kernels import cuda, native
from compressc.kernels.forced import FORCED, demanded
from compressc.kernels.losses.problem import Problem, TopK
from compressc.kernels.lowrank import gpu, linear
from compressc.kernels.lowrank.shape import Shape

#: Operators that more than one implementation has.
LOSSES = ("softmax_kl", "softmax_kl_ce", "softmax_kl_topk")
DIRECTED = "softmax_kl[reverse|jensen_shannon]"
OPERATORS = (*LOSSES, DIRECTED, "int8_lowrank_linear")
#: Operators that have a GPU kernel, in CUDA C++ and in Triton. lowrank_linear has its own rule.
GPU = (*LOSSES, DIRECTED, "scale_rows")
#: Tokens of a top-k teacher that a Triton program holds at once.
TRITON_KNOWN = 1024


class Row(NamedTuple):
    """One line of `compressc doctor`."""

    operator: str
    implementation: str
    reason: str


def choose(operator: str, device: torch.device, *dtypes: torch.dtype) -> Row:
    """The implementation that runs `operator` on tensors of this device and these dtypes.

    Raises:
        CompresscError: CC100, if an implementation is forced that does not exist here.
    """
    return _choose(operator, device.type, dtypes, demanded())


@cache  # asked on every call of every loss
def _choose(operator: str, device: str, dtypes: tuple[torch.dtype, ...], forced: str) -> Row:
    if forced == "reference":
        return Row(operator, "reference", "asked for (COMPRESSC_KERNELS or dispatch.using)")
    if device == "cuda" and forced != "native":
        return _choose_gpu(operator, dtypes, forced)
    reason = _why_not_native(device, dtypes)
    if forced and (forced != "native" or reason):
        hint = "reference, native on a CPU, cuda or triton on a GPU"
        raise CompresscError("CC100", f"kernels '{forced}' cannot run", got=reason, hint=hint)
    if reason:
        return Row(operator, "reference", reason)
    return Row(operator, "native", native.REASON)


def _choose_gpu(operator: str, dtypes: tuple[torch.dtype, ...], forced: str) -> Row:
    reasons = {"cuda": _why_not_cuda(), "triton": _why_not_triton()}
    if forced and reasons.get(forced, "there is no such implementation"):
        got = reasons.get(forced, "there is no such implementation")
        raise CompresscError("CC100", f"kernels '{forced}' cannot run", got=got)
    if operator not in GPU:
        return Row(operator, "reference", "there is no GPU kernel for it")
    odd = [dtype for dtype in dtypes if dtype not in native.DTYPES]
    if odd:
        kind = str(odd[0]).removeprefix("torch.")
        return Row(operator, "reference", f"the GPU kernels have no {kind}")
    if forced != "triton" and not reasons["cuda"]:
        return Row(operator, "cuda", cuda.REASON)
    if not reasons["triton"]:
        return Row(operator, "triton", f"Triton; CUDA C++: {reasons['cuda'] or 'overruled'}")
    return Row(operator, "reference", f"CUDA C++: {reasons['cuda']}; Triton: {reasons['triton']}")


def choose_loss(problem: Problem) -> Row:
    """`choose` for a loss: the student's dtype decides, and a full teacher's."""
    student, teacher = problem.student, problem.teacher
    if isinstance(teacher, TopK):
        row = choose("softmax_kl_topk", student.device, student.dtype)
        if row.implementation == "triton" and teacher.values.shape[-1] > TRITON_KNOWN:
            why = f"the Triton kernel takes up to {TRITON_KNOWN} known tokens"
            return Row(row.operator, "reference", why)
        return row
    operator = "softmax_kl" if problem.labels is None else "softmax_kl_ce"
    if problem.direction != "forward":
        operator = DIRECTED
    device = "cpu" if student.is_cpu else student.device.type  # asked on every call: costs less
    return _choose(operator, device, (student.dtype, teacher.dtype), demanded())


def table() -> list[Row]:
    """What runs each operator on each kind of device and dtype present, with the reason."""
    devices = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
    rows = []
    for operator in OPERATORS:
        for device in devices:
            for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
                row = choose(operator, device, dtype)
                name = f"{operator} [{device.type}, {str(dtype).removeprefix('torch.')}]"
                rows.append(row._replace(operator=name))
    rows += _lowrank_rows()
    for choices in (linear.LINEAR, gpu.FUSED):
        for key, (chosen, reason) in choices.items():
            shape = Shape(*key)
            kind = str(shape.dtype).removeprefix("torch.")
            size = f"{shape.inner}-{shape.rank}-{shape.out}, up to {shape.rows} rows, {kind}"
            rows.append(Row(f"lowrank_linear [{size}]", chosen, reason))
    return rows + _gpu_rows()


def _lowrank_rows() -> list[Row]:
    """How a CPU's lowrank_linear is chosen; `linear.LINEAR` holds what was."""
    rows = [Row("lowrank_linear", "torch", "training, tracing, determinism demanded, other dtypes")]
    for dtype in linear.TYPES:
        names, why = linear.candidates(dtype)
        name = f"lowrank_linear [cpu, {str(dtype).removeprefix('torch.')}]"
        if len(names) == 1:
            rows.append(Row(name, names[0], why))
            continue
        rule = f"the fastest of {', '.join(names)} at the first call of a shape"
        rows.append(Row(name, "measured", "; ".join(part for part in (rule, why) if part)))
    return rows


def _gpu_rows() -> list[Row]:
    """Which kernels a CUDA device finds here, whether or not there is one."""
    absent = not torch.cuda.is_available()
    note = "; torch sees no CUDA device" if absent else ""
    rows = []
    for name, why_not in (("cuda", _why_not_cuda()), ("triton", _why_not_triton())):
        ready = "no" if absent or why_not else "ready"
        rows.append(Row(f"gpu [{name}]", ready, (why_not or "built or installed") + note))
    rule = (
        f"one kernel up to {gpu.MOST_ROWS} rows and {gpu.MOST_V_BYTES >> 10} KiB "
        "of v, and only where that was measured to be faster"
    )
    fused = "torch" if absent else gpu.fused() or "torch"
    return [*rows, Row("gpu [lowrank_linear]", fused, rule + note)]


@contextmanager
def using(implementation: str) -> Iterator[None]:
    """Force one implementation, or "reference", inside the block: for tests and doubts."""
    FORCED.append(implementation)
    try:
        yield
    finally:
        FORCED.pop()


def _why_not_native(device: str, dtypes: tuple[torch.dtype, ...]) -> str:
    if device != "cpu":
        return f"the native kernels run on cpu, the tensors are on {device}"
    for dtype in dtypes:
        if dtype not in native.DTYPES:
            return f"the native kernels have no {str(dtype).removeprefix('torch.')}"
    return native.REASON if native.MODULE is None else ""


def _why_not_cuda() -> str:
    return cuda.REASON if cuda.LIBRARY is None else ""


def _why_not_triton() -> str:
    return "" if find_spec("triton") else "triton is not installed"
