"""Models and data in other floats than float32: converted when they are read, with a note.

Passes train and measure in float32, and quantizers, ONNX Runtime and OpenVINO take little else. So
this is settled once, before any work. Every float16 and bfloat16 number is a float32 number too;
float64 loses digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from compressc.errors import CompresscError
from compressc.frontend.importer import erase_dead
from compressc.frontend.inputs.arguments import Example
from compressc.ir import Graph, TensorType, retype
from compressc.ir.ops import map_arg

#: What `dtype=` of `load_model` may be.
CHOICES = ("float32", "keep")
_OTHERS = (torch.float16, torch.bfloat16, torch.float64)
_CASTS = {"aten.to.dtype", "aten._to_copy", "aten.type_as", "aten.to.dtype_layout"}


def check_choice(dtype: str) -> None:
    """See that it is one of `CHOICES`.

    Raises:
        CompresscError: CC100 otherwise.
    """
    if dtype not in CHOICES:
        wanted = "the dtype of a model is " + " or ".join(CHOICES)
        hint = "float32 converts floats of 16 and 64 bits, keep leaves them"
        raise CompresscError("CC100", wanted, got=dtype, where="--dtype", hint=hint)


def set_precision(graph: Graph, dtype: str) -> tuple[str, ...]:
    """Convert a graph to float32, or say what it is in.

    Args:
        graph: changed in place.
        dtype: one of `CHOICES`.

    Returns:
        A note where the graph holds or takes other floats.

    Raises:
        CompresscError: CC202 where it cannot be computed in float32.
    """
    tensors = list(graph.tensors().values())
    inputs = [graph.type_of(op.name).dtype for op in graph.inputs]
    found = {tensor.dtype for tensor in tensors} | set(inputs)
    names = " and ".join(_name(d) for d in _OTHERS if d in found)
    if not names:
        return ()
    if dtype == "keep":
        return (f"the model is in {names}: most passes and formats want float32 (--dtype float32)",)
    before = sum(tensor.nbytes for tensor in tensors)
    try:
        _to_float32(graph)
    except CompresscError as error:
        raise CompresscError(
            "CC202",
            f"a model in {names} is converted to float32",
            got=error.wanted,
            where=error.where,
            hint="--dtype keep leaves it as it is; or convert it yourself, model.float()",
        ) from error
    after = sum(tensor.nbytes for tensor in graph.tensors().values())
    size = f", {after / before:.2g} times the bytes" if before != after and before else ""
    return (
        f"the model is in {names}: converted to float32{size}, and so measured "
        "(--dtype keep leaves it)",
    )


def _to_float32(graph: Graph) -> None:
    converted: dict[int, torch.Tensor] = {}  # by identity: what is tied stays tied
    for op in graph:
        if op.kind == "input" and graph.type_of(op.name).dtype in _OTHERS:
            graph.set_type(op.name, TensorType(torch.float32, graph.type_of(op.name).shape))
        if op.layer is not None:
            tables: tuple[dict[str, Any], ...] = (op.layer._parameters, op.layer._buffers)
            for held in tables:
                for name, tensor in held.items():
                    if tensor is not None and tensor.dtype in _OTHERS:
                        held[name] = converted.setdefault(id(tensor), _float32(tensor))
        op.args, op.kwargs = map_arg(op.args, _plain), map_arg(op.kwargs, _plain)
    retype(graph)
    for op in graph:
        source = op.inputs[0] if op.kind in _CASTS else ""
        if source and set(op.kwargs) <= {"dtype"} and graph[source].type == op.type:
            graph.redirect(op.name, source)
    erase_dead(graph)


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    value = tensor.detach().to(torch.float32)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _plain(arg: Any) -> Any:
    return torch.float32 if isinstance(arg, torch.dtype) and arg in _OTHERS else arg


def cast_example(module: nn.Module, example: Example) -> Example:
    """Floats of an example in the dtype of a module's weights, where it has none of theirs."""
    tensors = (*module.parameters(), *module.buffers())
    dtypes = list(dict.fromkeys(t.dtype for t in tensors if t.is_floating_point()))

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        other = tensor.is_floating_point() and dtypes and tensor.dtype not in dtypes
        return tensor.to(dtypes[0]) if other else tensor

    return pytree.tree_map_only(torch.Tensor, cast, example)  # type: ignore[no-any-return]


def cast_inputs(graph: Graph, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Floats in the dtypes that a graph's inputs have, and integers where no value changes."""
    wanted = [graph.type_of(op.name).dtype for op in graph.inputs]
    if len(wanted) != len(tensors):
        return tuple(tensors)  # whoever checks them says what is wrong
    return tuple(
        tensor.to(dtype) if _may_cast(tensor, dtype) else tensor
        for tensor, dtype in zip(tensors, wanted, strict=True)
    )


def _may_cast(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    if tensor.dtype == dtype or tensor.is_complex() or dtype.is_complex:
        return False
    if tensor.is_floating_point() or dtype.is_floating_point:
        return tensor.is_floating_point() and dtype.is_floating_point
    # not uint8, which is an image as often as ids; nor bool, which is a mask
    ids = (torch.int16, torch.int32, torch.int64)
    return tensor.dtype in ids and dtype in ids and bool((tensor.to(dtype) == tensor).all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
