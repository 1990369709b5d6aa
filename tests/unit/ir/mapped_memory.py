"""Where tensors are in memory, as the system says."""

from pathlib import Path

import torch

from compressc.ir import Graph


def in_a_file(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in a mapped file of weights."""
    return any(
        int(begin, 16) <= tensor.data_ptr() < int(end, 16)
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "weights.safetensors" in line
        for begin, _, end in [line.split()[0].partition("-")]
    )


def weights_in_a_file(graph: Graph) -> bool:
    """Whether a graph's largest tensor does; the smallest may be copied, to begin at a vector."""
    return in_a_file(max(graph.tensors().values(), key=lambda tensor: tensor.nbytes))
