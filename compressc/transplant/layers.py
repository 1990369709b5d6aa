"""The layers of a graph in the places that they have in a module."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import LAYERS, Graph, Op, fit_attributes, layer_tensors
from compressc.ir.recurrent import Recurrent
from compressc.transplant.homes import Home
from compressc.transplant.recurrent import AsInTorch, calls_between


def put_layers(
    graph: Graph,
    before: Graph,
    module: nn.Module,
    homes: Mapping[str, Home],
    layers: Mapping[str, str],
) -> None:
    """Give a module the tensors and layers of a graph.

    Args:
        graph: what it has to compute.
        before: the graph of the module.
        module: edited in place.
        homes: text name of a tensor of `before` -> its place in the module.
        layers: op of `before` -> path of the module that is this layer.

    Raises:
        CompresscError: CC507 for a layer or a call that has no place in the module.
    """
    _check_body(graph, before)
    chains = {op.name: _chain(graph, before, op.name) for op in before if op.name in graph}
    placed = {op.name for chain in chains.values() for op in chain}
    _check_calls(graph, before, placed | set(calls_between(graph, placed)))
    names = before.tensor_names()
    replaced: dict[int, torch.Tensor] = {}
    for op in before:
        if op.layer is None or op.name not in graph or not layer_tensors(op.layer):
            continue
        chain, path = chains[op.name], layers.get(op.name)
        now = chain[-1].kind
        if path is not None and (len(chain) > 1 or now != op.kind):
            _replace(module, path, chain, op)
        elif now != op.kind and _is_again(op, chain, before, graph, layers):
            continue  # the module of a layer that is used twice has it already
        elif len(chain) > 1 or now != op.kind:
            kinds = ", ".join(link.kind for link in chain)
            raise CompresscError(
                "CC507",
                "what takes the place of a layer needs a module that is this layer alone",
                got=f"{kinds} in place of a {op.kind}",
                where=f"%{op.name}",
                hint="its weight is one of several of its module: leave lowrank or quant out, or "
                "use compiled.module()",
            )
        else:
            _fill(module, op, chain[-1], names, homes, path, replaced)


def _is_again(
    op: Op, chain: Sequence[Op], before: Graph, graph: Graph, layers: Mapping[str, str]
) -> bool:
    """Whether a layer is a second use of one that has a module, and still the same."""
    assert op.layer is not None
    mine = {id(tensor) for _, tensor in layer_tensors(op.layer)}
    now = dict(layer_tensors(chain[-1].layer)) if chain[-1].layer is not None else {}
    for name in layers:
        first = before[name]
        if name not in graph or first.layer is None or first.name == op.name:
            continue
        if {id(tensor) for _, tensor in layer_tensors(first.layer)} != mine:
            continue
        twin = graph[name]
        held = dict(layer_tensors(twin.layer)) if twin.layer is not None else {}
        same = twin.kind == chain[-1].kind and held.keys() == now.keys()
        return len(chain) == 1 and same and all(torch.equal(held[n], now[n]) for n in now)
    return False


def _check_body(graph: Graph, before: Graph) -> None:
    if not any(op.name in before and op.kind != "input" for op in graph):
        raise CompresscError(
            "CC507",
            "the graph must be made of the module's layers",
            got="another model, student(factory=...)",
            where=graph.name,
            hint="load the weights into your own class, or use compiled.module()",
        )


def _chain(graph: Graph, before: Graph, name: str) -> list[Op]:
    """The layers that stand in the place of one: those in front of it are new."""
    chain = [graph[name]]
    while chain[0].layer is not None and chain[0].inputs:
        if len(chain[0].inputs) > 1 and chain[0].role != "recurrent":  # which is given states, too
            break
        source = graph[chain[0].inputs[0]]
        if source.kind == "getitem" and source.name not in before and not source.args[1]:
            source = graph[source.inputs[0]]  # the sequence of a recurrent layer below
        if source.name in before or source.layer is None or not source.inputs:
            break
        chain.insert(0, source)
    return chain


def _check_calls(graph: Graph, before: Graph, placed: set[str]) -> None:
    """What the graph calls beside the module's code must be layers in the place of layers.

    Raises:
        CompresscError: CC507 naming the first call that is none.
    """
    for op in graph:
        if op.name in before or op.name in placed or op.role == "tensor":
            continue
        hint = "use compiled.module(), which computes every graph"
        if op.kind.startswith("quantized_decomposed."):
            hint = "apply before quant, or quant(mode=weights) or quant(mode=dynamic)"
        elif op.kind == "aten.to.dtype":
            hint = "apply before quant(mode=cast), then module.bfloat16()"
        raise CompresscError(
            "CC507",
            "a module holds layers, and this is a call between them",
            got=op.kind,
            where=f"%{op.name}",
            hint=hint,
        )


def _homeless(name: str, got: str) -> CompresscError:
    return CompresscError(
        "CC507",
        "a layer that changed must be a module, or a tensor of one",
        got=got,
        where=f"%{name}",
        hint="its weight is computed in the module's code: fold it before compressc sees the "
        "model (torch.nn.utils.parametrize.remove_parametrizations), or use compiled.module()",
    )


def _replace(module: nn.Module, path: str, chain: Sequence[Op], op: Op) -> None:
    """One module for a chain of layers, with the sizes that the layer has as attributes."""
    old: Any = module.get_submodule(path)
    parts = [_own(link) for link in chain]
    new: Any = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    if isinstance(op.layer, Recurrent):
        new = AsInTorch(parts, op.layer)
    elif len(parts) > 1:
        ends = {"in": chain[0], "rows": chain[0], "out": chain[-1], "width": chain[-1]}
        for text, attribute in LAYERS[op.kind].attributes.items():
            if text != "bias":
                source: Any = ends.get(text, op)
                known = LAYERS[source.kind].attributes if text in ends else {}
                held = source.layer if text in known else op.layer
                setattr(new, attribute, getattr(held, attribute))
        if chain[-1].kind == "linear":
            new.out_features = chain[-1].layer.out_features  # type: ignore[union-attr]
    device = next((tensor.device for tensor in old.parameters()), torch.device("cpu"))
    parent, _, name = path.rpartition(".")
    module.get_submodule(parent)._modules[name] = new.to(device).train(old.training)


def _own(op: Op) -> nn.Module:
    """A layer of a graph with memory of its own, which is trained."""
    layer = copy.deepcopy(op.layer)
    assert layer is not None
    for parameter in layer.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return layer


def _fill(  # noqa: PLR0913  (one layer before and after, and what is known of its place)
    module: nn.Module,
    op: Op,
    twin: Op,
    names: Mapping[int, str],
    homes: Mapping[str, Home],
    path: str | None,
    replaced: dict[int, torch.Tensor],
) -> None:
    """Give the module the tensors of a layer, and a layer of torch the sizes that follow."""
    assert op.layer is not None
    assert twin.layer is not None
    now = dict(layer_tensors(twin.layer))
    for local, tensor in layer_tensors(op.layer):
        home = homes.get(names[id(tensor)])
        value = now.pop(local)
        if home is None:
            if tensor.shape != value.shape or not torch.equal(tensor, value):
                raise _homeless(op.name, f"its '{local}' has no place in the module")
            continue
        _put(module, home, value, replaced)
    owner: Any = None if path is None else module.get_submodule(path)
    for local, value in now.items():  # a bias that took in a norm
        if owner is None or owner._parameters.get(local, value) is not None:
            raise _homeless(op.name, f"a '{local}' that it did not have")
        made = nn.Parameter(value.detach().clone().to(next(owner.parameters()).device))
        owner.register_parameter(local, made)
    if owner is not None and isinstance(owner, _class_of(op)):
        if hasattr(owner, "groups"):
            owner.groups = twin.layer.groups
        fit_attributes(op.kind, owner)


def _class_of(op: Op) -> type:
    """What the user's layer is, where its sizes are called as those of the graph's."""
    if op.role == "recurrent":  # the graph has classes of its own for these
        return nn.RNNBase
    found: Any = LAYERS[op.kind].module
    return found if isinstance(found, type) else nn.Module


def _put(
    module: nn.Module, home: Home, value: torch.Tensor, replaced: dict[int, torch.Tensor]
) -> None:
    """A tensor in its place, and wherever else the module holds the same one."""
    old = getattr(module.get_submodule(home.path), home.slot)
    if id(old) in replaced:
        return
    fresh = value.detach().t() if home.transposed else value.detach()
    fresh = fresh.clone(memory_format=torch.contiguous_format).to(old.device)
    is_parameter = isinstance(old, nn.Parameter)
    new = nn.Parameter(fresh, old.requires_grad) if is_parameter else fresh
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for slot in [slot for slot, held in table.items() if held is old]:
                setattr(part, slot, new)  # recurrent layers keep a list beside their tables
    replaced[id(new)] = new
