"""A graph on disk without pickle: `graph.txt` (the text form) and `weights.safetensors`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file

from compressc.errors import CompresscError
from compressc.ir.graph import Graph
from compressc.ir.parser import parse_graph

TEXT, WEIGHTS = "graph.txt", "weights.safetensors"


def save_bundle(graph: Graph, folder: Path) -> None:
    """Write a graph into a folder, which is made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in graph.tensors().items()}
    save_file(_unshared(tensors), folder / WEIGHTS)
    (folder / TEXT).write_text(str(graph), encoding="utf-8")


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses views of one storage (an expanded buffer, say): copy the later ones."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return out


def load_bundle(folder: Path) -> Graph:
    """Read a graph that `save_bundle` wrote.

    Raises:
        CompresscError: CC403 where a file is missing or damaged, CC402 where the text is wrong.
    """
    try:
        tensors = load_file(folder / WEIGHTS)
        text = (folder / TEXT).read_text(encoding="utf-8")
    except (OSError, safetensors.SafetensorError, UnicodeDecodeError) as error:
        raise CompresscError(
            "CC403",
            f"a bundle is a folder with {TEXT} and {WEIGHTS}",
            got=str(error),
            where=str(folder),
        ) from error
    return parse_graph(text, tensors)


def graph_hash(graph: Graph) -> str:
    """sha256 over the text form and every weight: equal graphs have equal hashes."""
    digest = hashlib.sha256(str(graph).encode())
    for name, tensor in graph.tensors().items():
        digest.update(name.encode())
        flat = tensor.detach().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
