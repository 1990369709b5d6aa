"""A graph on disk without pickle: `graph.txt` (the text form) and `weights.safetensors`."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import safetensors
import torch

from compressc.durable import make_folder, sync
from compressc.interruption import held_back
from compressc.ir.aligned import is_aligned, write_aligned
from compressc.ir.graph import Graph
from compressc.ir.parser import parse_graph
from compressc.ir.sharing import bytes_of
from compressc.strangers import reading, regular_file

TEXT, WEIGHTS = "graph.txt", "weights.safetensors"
_ORDERS = "memory_order"


def save_bundle(graph: Graph, folder: Path) -> None:
    """Write a graph into a folder, which is made where missing.

    Files are written aside and renamed: a graph that was loaded from the same folder keeps the old
    file mapped, and no crash leaves half a file. On return, both are on the disk.
    """
    make_folder(folder)
    tensors = {name: tensor.detach() for name, tensor in graph.tensors().items()}
    orders = {name: order for name, t in tensors.items() if (order := _memory_order(t))}
    stored = {n: t.permute(orders[n]) if n in orders else t for n, t in tensors.items()}
    stored = {name: tensor.contiguous() for name, tensor in stored.items()}
    aside = {name: folder / f".{name}.{os.getpid()}.partial" for name in (TEXT, WEIGHTS)}
    try:
        aside[TEXT].write_text(str(graph), encoding="utf-8")
        write_aligned(stored, aside[WEIGHTS], {_ORDERS: json.dumps(orders)} if orders else {})
        for path in aside.values():
            sync(path)
        with held_back():  # text and weights of one graph
            for name, path in aside.items():
                os.replace(path, folder / name)
        sync(folder)
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)


def _memory_order(tensor: torch.Tensor) -> list[int]:
    """Dimensions from slowest to fastest in memory where that is not their order, else nothing.

    A weight that is the transpose of a stored matrix, or channels-last, keeps its layout on disk:
    another layout makes another kernel run, whose sums round differently.
    """
    order = sorted(range(tensor.dim()), key=lambda d: -tensor.stride()[d])
    in_order = tensor.is_contiguous() or not tensor.permute(order).is_contiguous()
    return [] if in_order else order


#: Bytes of a text; one of a hundred thousand ops has a tenth of it.
_MOST_TEXT = 256 << 20


def load_bundle(folder: Path) -> Graph:
    """Read a graph that `save_bundle` wrote.

    Weights are mapped, not read: a page comes into memory when it is first touched, and a write
    into a tensor changes this process's copy of the page, never the file.

    Raises:
        CompresscError: CC403 where a file is missing or damaged, CC402 where the text is wrong.
    """
    wanted = f"a bundle is a folder with {TEXT} and {WEIGHTS}"
    regular_file(folder / WEIGHTS, "CC403", wanted)
    regular_file(folder / TEXT, "CC403", wanted, most=_MOST_TEXT)
    with reading("CC403", wanted, str(folder)):
        tensors = _load_tensors(folder / WEIGHTS)
        text = (folder / TEXT).read_text(encoding="utf-8")
    return parse_graph(text, tensors)


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
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


def graph_hash(graph: Graph) -> str:
    """sha256 over the text form and every weight: equal graphs have equal hashes.

    A weight counts with its dtype, shape and memory order, which decide what its bytes mean and
    which kernel reads them; one on the meta device has no bytes.
    """
    digest = hashlib.sha256(str(graph).encode())
    for name, tensor in graph.tensors().items():
        order = [dim for dim in _memory_order(tensor) if tensor.shape[dim] > 1]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} {order}\n".encode())
        if not tensor.is_meta:
            for piece in bytes_of(tensor.detach().contiguous()):
                digest.update(piece)
    return digest.hexdigest()
