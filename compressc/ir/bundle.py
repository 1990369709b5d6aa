"""A graph on disk without pickle: `graph.txt` (the text form) and `weights.safetensors`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from compressc.durable import make_folder, sync
from compressc.interruption import held_back
from compressc.ir.graph import Graph
from compressc.ir.parser import parse_graph
from compressc.ir.sharing import bytes_of
from compressc.ir.weights_file import memory_order, read_weights, write_weights
from compressc.strangers import reading, regular_file

TEXT, WEIGHTS = "graph.txt", "weights.safetensors"


def save_bundle(graph: Graph, folder: Path) -> None:
    """Write a graph into a folder, which is made where missing.

    Files are written aside and renamed: a graph that was loaded from the same folder keeps the old
    file mapped, and no crash leaves half a file. On return, both are on the disk.
    """
    make_folder(folder)
    aside = {name: folder / f".{name}.{os.getpid()}.partial" for name in (TEXT, WEIGHTS)}
    try:
        aside[TEXT].write_text(str(graph), encoding="utf-8")
        write_weights(graph.tensors(), aside[WEIGHTS])
        for path in aside.values():
            sync(path)
        with held_back():  # text and weights of one graph
            for name, path in aside.items():
                os.replace(path, folder / name)
        sync(folder)
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)


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
        tensors = read_weights(folder / WEIGHTS)
        text = (folder / TEXT).read_text(encoding="utf-8")
    return parse_graph(text, tensors)


def graph_hash(graph: Graph) -> str:
    """sha256 over the text form and every weight: equal graphs have equal hashes.

    A weight counts with its dtype, shape and memory order, which decide what its bytes mean and
    which kernel reads them; one on the meta device has no bytes.
    """
    digest = hashlib.sha256(str(graph).encode())
    for name, tensor in graph.tensors().items():
        order = [dim for dim in memory_order(tensor) if tensor.shape[dim] > 1]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} {order}\n".encode())
        if not tensor.is_meta:
            for piece in bytes_of(tensor.detach().contiguous()):
                digest.update(piece)
    return digest.hexdigest()
