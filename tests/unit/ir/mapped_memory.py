"""Where tensors are in memory, as the system says."""

from pathlib import Path

import torch

from compressc.ir import Graph
from compressc.ir.sharing import address


def files_of_weights() -> list[range]:
    """Addresses of the mapped files of weights."""
    lines = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    places = [line.split()[0].partition("-") for line in lines if "weights.safetensors" in line]
    return [range(int(begin, 16), int(end, 16)) for begin, _, end in places]


def in_a_file(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in one of them."""
    return any(address(tensor) in place for place in files_of_weights())


def weights_in_a_file(graph: Graph) -> bool:
    """Whether a graph's largest tensor does; the smallest may be copied, to begin at a vector."""
    return in_a_file(max(graph.tensors().values(), key=lambda tensor: tensor.nbytes))
