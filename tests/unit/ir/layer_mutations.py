"""Ways to damage the layers of a graph; see `ir_mutations`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from torch import nn

from compressc.ir import (
    Graph,
    Op,
    layer_tensors,
)

Mutation = Callable[[Graph, Random], bool]


def ops_of(graph: Graph, *, layers: bool | None = None) -> list[Op]:
    found = [op for op in graph if op.kind != "input"]
    return found if layers is None else [op for op in found if (op.layer is not None) is layers]


def modules(graph: Graph) -> list[Op]:
    """Ops whose layer is more than one held tensor."""
    return [op for op in ops_of(graph, layers=True) if op.kind not in ("parameter", "constant")]


def with_tensors(graph: Graph) -> list[tuple[Op, str, torch.Tensor]]:
    return [(op, n, t) for op in ops_of(graph, layers=True) for n, t in layer_tensors(op.layer)]


def drop_layer(graph: Graph, rng: Random) -> bool:
    ops = ops_of(graph, layers=True)
    if ops:
        rng.choice(ops).layer = None
    return bool(ops)


def add_layer(graph: Graph, rng: Random) -> bool:
    ops = [op for op in graph if op.layer is None]
    if ops:
        rng.choice(ops).layer = nn.ReLU()
    return bool(ops)


def other_layer(graph: Graph, rng: Random) -> bool:
    ops = modules(graph)
    if not ops:
        return False
    strange = [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.Identity(), nn.Linear(4, 4)]
    strange += [nn.Sequential(nn.ReLU()), nn.Softplus(2.0), nn.Hardswish(), nn.SiLU()]
    strange += [op.layer for op in ops]
    rng.choice(ops).layer = rng.choice(strange)
    return True


def hidden_code(graph: Graph, rng: Random) -> bool:
    ops = ops_of(graph, layers=True)
    if not ops:
        return False
    layer: Any = rng.choice(ops).layer
    match rng.choice(["forward", "hook", "prehook", "module", "class", "norm"]):
        case "forward":
            layer.forward = lambda *args: args[0] * 2
        case "hook":
            layer.register_forward_hook(lambda module, args, result: result * 2)
        case "prehook":
            layer.register_forward_pre_hook(lambda module, args: tuple(a * 2 for a in args))
        case "module":
            layer.extra = nn.Linear(2, 2)
        case "class":
            layer.__class__ = type("Other", (type(layer),), {"forward": lambda self, *a: a[0]})
        case "norm":
            if not hasattr(layer, "weight") or not isinstance(layer.weight, nn.Parameter):
                return False
            nn.utils.parametrizations.weight_norm(layer)
    return True


_VALUES = [
    0, 1, 2, 3, -1, 7, True, False, None, 0.5, -0.5, 1e-3, float("nan"), float("inf"), "tanh",
    "none", "same", "reflect", "bogus", (1, 1), (2, 2), (1, 2), (1,), (1, 1, 1), [1], np.float64(2),
    np.int64(2), torch.tensor(2), torch.ones(3), object(), 1.0, 10**20,
]  # fmt: skip


def layer_attribute(graph: Graph, rng: Random) -> bool:
    ops = [op for op in modules(graph) if [k for k in vars(op.layer) if k[0] != "_"]]
    if not ops:
        return False
    layer: Any = rng.choice(ops).layer
    names = [name for name in vars(layer) if name[0] != "_" and name != "training"]
    if not names:
        return False
    name = rng.choice(names)
    value = getattr(layer, name)
    near = [value + 1] if isinstance(value, int | float) else []
    near += [tuple(v + 1 for v in value)] if isinstance(value, tuple) else []
    object.__setattr__(layer, name, rng.choice([*near * 8, *_VALUES]))
    return True


def lost_attribute(graph: Graph, rng: Random) -> bool:
    ops = modules(graph)
    names = [(op, name) for op in ops for name in vars(op.layer) if name[0] != "_"]
    if not names:
        return False
    op, name = rng.choice(names)
    delattr(op.layer, name)
    return True


def _slot(layer: Any, name: str) -> dict[str, Any]:
    return layer._parameters if name in layer._parameters else layer._buffers


def other_tensor(graph: Graph, rng: Random) -> bool:
    found = with_tensors(graph)
    if not found:
        return False
    op, name, tensor = rng.choice(found)
    shape, value = tensor.shape, tensor.detach()
    dtypes = [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8]
    dtypes += [torch.complex64, torch.complex128, torch.bool, torch.int32]
    changed = rng.choice(
        [
            lambda: torch.zeros(*(n + 1 for n in shape)),
            lambda: value[:-1].clone() if value.dim() else value[None],
            value[None].clone,
            lambda: value.reshape(-1).clone(),
            lambda: value.t().clone() if value.dim() == 2 else value[None],
            *[lambda dtype=dtype: value.to(dtype) for dtype in dtypes],
            lambda: value.clone() + 1,
            lambda: (
                value.reshape(-1).view(torch.int32).reshape(shape)
                if value.dtype == torch.float32
                else value.float()
            ),
            lambda: None,
            lambda: value.flip(0) if value.dim() else value + 1,
        ]
    )()
    table = _slot(op.layer, name)
    was_parameter = isinstance(tensor, nn.Parameter)
    if was_parameter and changed is not None:
        changed = nn.Parameter(changed, requires_grad=changed.is_floating_point())
    table[name] = changed
    return True


def other_slot(graph: Graph, rng: Random) -> bool:
    """A parameter among the buffers, or a buffer among the parameters."""
    found = with_tensors(graph)
    if not found:
        return False
    op, name, tensor = rng.choice(found)
    layer: Any = op.layer
    if name in layer._parameters:
        del layer._parameters[name]
        layer._buffers[name] = tensor.detach() if rng.random() < 0.5 else tensor
    else:
        del layer._buffers[name]
        layer._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    return True


def swap_slots(graph: Graph, rng: Random) -> bool:
    """Weight and bias change places, or come in another order."""
    ops = [op for op in modules(graph) if len(op.layer._parameters) > 1]
    if not ops:
        return False
    table = rng.choice(ops).layer._parameters
    a, b = rng.sample(list(table), 2)
    if rng.random() < 0.5:
        table[a], table[b] = table[b], table[a]
    else:
        table[a] = table.pop(a)
    return True


def extra_tensor(graph: Graph, rng: Random) -> bool:
    ops = ops_of(graph, layers=True)
    if not ops:
        return False
    layer: Any = rng.choice(ops).layer
    if rng.random() < 0.5:
        layer._parameters["extra"] = nn.Parameter(torch.ones(2))
    else:
        layer._buffers["extra"] = torch.ones(2)
    return True


def untie(graph: Graph, rng: Random) -> bool:
    names = [t for _, _, t in with_tensors(graph)]
    tied = [(op, n) for op, n, t in with_tensors(graph) if sum(t is o for o in names) > 1]
    if not tied:
        return False
    op, _ = rng.choice(tied)
    op.layer = copy.deepcopy(op.layer)
    return True


def tie(graph: Graph, rng: Random) -> bool:
    found = with_tensors(graph)
    pairs = [(a, b) for a in found for b in found if a[2] is not b[2] and a[2].shape == b[2].shape]
    if not pairs:
        return False
    (op, name, _), (_, _, tensor) = rng.choice(pairs)
    _slot(op.layer, name)[name] = tensor
    return True


def relayout(graph: Graph, rng: Random) -> bool:
    """The same numbers in another memory order."""
    found = [(op, n, t) for op, n, t in with_tensors(graph) if t.dim() > 1]
    if not found:
        return False
    op, name, tensor = rng.choice(found)
    order = list(range(tensor.dim()))
    rng.shuffle(order)
    back = sorted(range(len(order)), key=order.__getitem__)
    value = tensor.detach().permute(order).contiguous().permute(back)
    is_parameter = isinstance(tensor, nn.Parameter)
    _slot(op.layer, name)[name] = nn.Parameter(value) if is_parameter else value
    return True


def train_mode(graph: Graph, rng: Random) -> bool:
    ops = modules(graph)
    if ops:
        rng.choice(ops).layer.train()
    return bool(ops)
