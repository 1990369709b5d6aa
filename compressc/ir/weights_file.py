"""Weights in a file that is mapped, not read: as `graph.tensors()` has them, layout and all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch

from compressc.errors import CompresscError
from compressc.ir.aligned import is_aligned, write_aligned
from compressc.ir.graph import Graph

_ORDERS = "memory_order"


def write_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors in the order that their memory has.

    Raises:
        CompresscError: CC400 for a dtype that the format does not have (complex128).
    """
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    orders = {name: order for name, t in tensors.items() if (order := memory_order(t))}
    stored = {n: t.permute(orders[n]) if n in orders else t for n, t in tensors.items()}
    stored = {name: tensor.contiguous() for name, tensor in stored.items()}
    write_aligned(stored, path, {_ORDERS: json.dumps(orders)} if orders else {})


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Map what `write_weights` wrote; a write into a tensor never changes the file."""
    with safetensors.safe_open(path, framework="pt") as file:
        orders = json.loads((file.metadata() or {}).get(_ORDERS, "{}"))
        tensors = {name: _aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    for name, order in orders.items():
        places = sorted(range(len(order)), key=order.__getitem__)
        tensors[name] = tensors[name].permute(places)
    return tensors


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The mapped tensor, or a copy of it where kernels would start in the middle of a vector and
    round differently: small ones, in a file that `write_aligned` made."""
    return tensor if is_aligned(tensor) else tensor.clone()


def set_aside(graph: Graph) -> bool:
    """Move a graph's weights to a file without a name: it can be read and run, and fills no memory.

    The file goes with the last tensor of it, or with the process, however that ends.

    Args:
        graph: keeps its ops; its layers are new ones.

    Returns:
        Whether it could be: where the disk is full the weights stay where they are.
    """
    with tempfile.TemporaryDirectory(prefix="compressc-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "weights.safetensors")
        try:
            write_weights(graph.tensors(), path)
            graph.put_weights(read_weights(path))
        except (OSError, safetensors.SafetensorError, CompresscError):
            return False
    return True


def memory_order(tensor: torch.Tensor) -> list[int]:
    """Dimensions from slowest to fastest in memory where that is not their order, else nothing.

    A weight that is the transpose of a stored matrix, or channels-last, keeps its layout on disk:
    another layout makes another kernel run, whose sums round differently.
    """
    order = sorted(range(tensor.dim()), key=lambda d: -tensor.stride()[d])
    in_order = tensor.is_contiguous() or not tensor.permute(order).is_contiguous()
    return [] if in_order else order
