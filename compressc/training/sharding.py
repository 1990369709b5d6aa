"""Weights, gradients and moments spread over the processes of a run: each holds a part of them.

Fully sharded data parallelism (Zhao et al. 2023, "PyTorch FSDP", section 3; torch's `fully_shard`):
what a layer needs is gathered for its turn and dropped again, and gradients are reduced to the part
that each process holds. Buffers, as those of batch norms, are whole in every process.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from compressc import processes

#: Numbers of a layer that is gathered by itself; smaller ones are gathered together, once.
LARGE = 1 << 20


def shared_out(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters lie spread over all processes.

    The copy is called as the module is. The module stays whole: its layers are those of a graph.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    twin = copy.deepcopy(module)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    device = next(twin.parameters()).device.type
    mesh = init_device_mesh(device, (processes.world(),))
    for layer in _large_layers(twin):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # at once, not before the next backward: weights are written between two passes
    fully_shard(twin, mesh=mesh, reshard_after_forward=True)
    return twin


def is_shared(tensor: Tensor) -> bool:
    """Whether this process holds only a part of it."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of it; every process calls this at the same place."""
    return tensor.full_tensor() if is_shared(tensor) else tensor  # type: ignore[attr-defined]


def write(target: Tensor, value: Tensor) -> Tensor:
    """Put a whole tensor into one that may be spread, in place; nothing is sent."""
    with torch.no_grad():
        if is_shared(target):
            value = _part_of(value, target)
        target.copy_(value)
    return target


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole and contiguous on the CPU in the main process; the others take part and get none."""
    found = {}
    for name, tensor in tensors.items():
        plain = whole(tensor.detach())
        if processes.is_main():
            found[name] = plain.cpu().contiguous()
    return found


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scale all gradients together so that their norm is at most so large; the norm before.

    As `torch.nn.utils.clip_grad_norm_`, which does not take spread and whole ones together.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(map(is_shared, gradients)):
        norm = nn.utils.get_total_norm(gradients)
        if bool(most / (norm + 1e-6) < 1):  # else each would be multiplied by 1
            nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return float(norm)
    parts = [[g for g in gradients if is_shared(g) == shared] for shared in (True, False)]
    norms = [whole(nn.utils.get_total_norm(part)) for part in parts if part]
    total = float(torch.stack(norms).norm())
    if math.isfinite(total) and total > most:
        for gradient in gradients:
            gradient.mul_(most / (total + 1e-6))
    return total


def _part_of(value: Tensor, target: Tensor) -> Tensor:
    """What this process holds of a value that is spread as the target is."""
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
    there = value.to(target.device, target.dtype)
    return distribute_tensor(there, mesh, placements, src_data_rank=None)


def _large_layers(module: nn.Module) -> list[nn.Module]:
    """Layers of a lowered graph that run once and share no parameter with another."""
    if not isinstance(module, fx.GraphModule):
        return []
    called = Counter(n.target for n in module.graph.nodes if n.op == "call_module")
    once = [module.get_submodule(str(name)) for name, times in called.items() if times == 1]
    holders = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    return [
        layer
        for layer in dict.fromkeys(once)
        if sum(p.numel() for p in layer.parameters()) >= LARGE
        and all(holders[id(p)] == 1 for p in layer.parameters())
    ]
