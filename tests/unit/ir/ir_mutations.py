"""Ways to damage a graph, each at a random place. A mutation returns whether it found a place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import sympy
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import (
    LAYERS,
    Graph,
    Op,
    Ref,
    Tensor,
    TensorType,
    TupleType,
    layer_tensors,
    symbol,
)
from compressc.ir.ops import map_arg

Mutation = Callable[[Graph, Random], bool]


def _ops(graph: Graph, *, layers: bool | None = None) -> list[Op]:
    found = [op for op in graph if op.kind != "input"]
    return found if layers is None else [op for op in found if (op.layer is not None) is layers]


def _modules(graph: Graph) -> list[Op]:
    """Ops whose layer is more than one held tensor."""
    return [op for op in _ops(graph, layers=True) if op.kind not in ("parameter", "constant")]


def _with_tensors(graph: Graph) -> list[tuple[Op, str, torch.Tensor]]:
    return [(op, n, t) for op in _ops(graph, layers=True) for n, t in layer_tensors(op.layer)]


# ---- edges and order ----------------------------------------------------------------------


def drop_edge(graph: Graph, rng: Random) -> bool:
    graph.dag.remove_edge(*rng.choice(list(graph.dag.edges(keys=True))))
    return True


def add_edge(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    source, target = rng.choice(names), rng.choice(names)
    graph.dag.add_edge(source, target, key=rng.choice([0, 1, 7, 99]))
    return True


def rekey_edge(graph: Graph, rng: Random) -> bool:
    source, target, key = rng.choice(list(graph.dag.edges(keys=True)))
    graph.dag.remove_edge(source, target, key)
    graph.dag.add_edge(source, target, key=key + rng.choice([-1, 1, 5]))
    return True


def move_edge(graph: Graph, rng: Random) -> bool:
    source, target, key = rng.choice(list(graph.dag.edges(keys=True)))
    graph.dag.remove_edge(source, target, key)
    graph.dag.add_edge(rng.choice([op.name for op in graph]), target, key=key)
    return True


def operands_without_edges(graph: Graph, rng: Random) -> bool:
    op = rng.choice(_ops(graph))
    names = [o.name for o in graph]
    op.args = map_arg(op.args, lambda a: Ref(rng.choice(names)) if isinstance(a, Ref) else a)
    return True


def other_operand(graph: Graph, rng: Random) -> bool:
    """A well-formed edit: another value, earlier or later."""
    op = rng.choice([op for op in _ops(graph) if op.inputs])
    names = [o.name for o in graph if o is not op]
    one = rng.choice(op.inputs)
    other = Ref(rng.choice(names))
    args = map_arg(op.args, lambda a: other if a == Ref(one) else a)
    graph.set_inputs(op.name, args)
    return True


def swap_operands(graph: Graph, rng: Random) -> bool:
    ops = [op for op in _ops(graph) if len([a for a in op.args if isinstance(a, Ref)]) > 1]
    if not ops:
        return False
    op = rng.choice(ops)
    places = [i for i, a in enumerate(op.args) if isinstance(a, Ref)]
    i, j = rng.sample(places, 2)
    args = list(op.args)
    args[i], args[j] = args[j], args[i]
    if rng.random() < 0.5:
        graph.set_inputs(op.name, tuple(args))
    else:
        op.args = tuple(args)
    return True


def cycle(graph: Graph, rng: Random) -> bool:
    pairs = [(op, user) for op in _ops(graph) for user in graph.users(op.name) if op.args]
    if not pairs:
        return False
    op, user = rng.choice(pairs)
    graph.set_inputs(op.name, (Ref(user.name), *op.args[1:]))
    return True


def _place(graph: Graph, name: str, after: str) -> None:
    before, behind = graph._previous[name], graph._next[name]
    graph._next[before], graph._previous[behind] = behind, before
    following = graph._next[after]
    graph._next[after], graph._next[name] = name, following
    graph._previous[following], graph._previous[name] = name, after


def reorder(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    name = rng.choice(names)
    _place(graph, name, rng.choice([n for n in names if n != name] or [""]))
    return True


def loop_in_order(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    graph._next[rng.choice(names)] = rng.choice(names)
    return True


def broken_order(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    table = rng.choice([graph._next, graph._previous])
    name = rng.choice(names)
    match rng.choice(["gone", "nowhere", "end"]):
        case "gone":
            del table[name]
        case "nowhere":
            table[name] = "nowhere"
        case "end":
            table[name] = ""
    return True


# ---- ops ----------------------------------------------------------------------------------


def alias_name(graph: Graph, rng: Random) -> bool:
    """The op says another name than it is filed under."""
    names = [op.name for op in graph]
    rng.choice(list(graph)).name = rng.choice(["other", "", rng.choice(names)])
    return True


def two_names(graph: Graph, rng: Random) -> bool:
    """One op filed under two names."""
    ops = list(graph)
    a, b = rng.choice(ops), rng.choice(ops)
    graph.dag.nodes[a.name]["op"] = b
    return True


def illegal_name(graph: Graph, rng: Random) -> bool:
    sources = [op.name for op in graph if isinstance(op.type, TensorType)]
    source = rng.choice(sources)
    name = rng.choice(["a b", "x%y", "é", "a,b", "a#b", "a\nb", "(", "a@b"])
    op = Op(name, "aten.clone", (Ref(source),), type=graph[source].type)
    graph.insert_after(source, op)
    graph.redirect(source, name, but=[name])
    return True


def erase_node(graph: Graph, rng: Random) -> bool:
    graph.dag.remove_node(rng.choice(list(graph)).name)
    return True


def remove_input(graph: Graph, rng: Random) -> bool:
    op = rng.choice(graph.inputs)
    before, following = graph._previous.pop(op.name), graph._next.pop(op.name)
    graph._next[before], graph._previous[following] = following, before
    graph.dag.remove_node(op.name)
    return True


def dangle_tensor(graph: Graph, rng: Random) -> bool:
    kind = rng.choice(["parameter", "constant"])
    value = torch.ones(2)
    held = Tensor(nn.Parameter(value) if kind == "parameter" else value)
    type_ = TensorType(torch.float32, (2,))
    graph.append(Op(graph.fresh_name("p"), kind, layer=held, type=type_))
    return True


_KINDS = [
    "aten.relu", "aten.relu_", "aten.neg", "aten.add.Tensor", "aten.add_.Tensor", "aten.nowhere",
    "aten.copy_", "aten.zero_", "getitem", "linear", "relu", "tanh", "sigmoid", "parameter",
    "constant", "input", "batch_norm2d", "layer_norm", "bogus", "aten.matmul", "aten.save",
    "aten.nonzero", "aten.item", "silu", "aten.sum", "",
]  # fmt: skip


def other_kind(graph: Graph, rng: Random) -> bool:
    rng.choice(list(graph)).kind = rng.choice(_KINDS)
    return True


def in_place_kind(graph: Graph, rng: Random) -> bool:
    sources = [op.name for op in graph if isinstance(op.type, TensorType)]
    source = rng.choice(sources)
    kind = rng.choice(["aten.relu_", "aten.neg_", "aten.zero_", "aten.sigmoid_"])
    op = Op(graph.fresh_name("w"), kind, (Ref(source),), type=graph[source].type)
    graph.insert_after(source, op)
    if rng.random() < 0.5:
        graph.redirect(source, op.name, but=[op.name])
    return True


def unknown_operand(graph: Graph, rng: Random) -> bool:
    op = rng.choice([op for op in _ops(graph) if op.args])
    args = list(op.args)
    args[rng.randrange(len(args))] = Ref(rng.choice(["nowhere", op.name, ""]))
    op.args = tuple(args)
    return True


# ---- layers -------------------------------------------------------------------------------


def drop_layer(graph: Graph, rng: Random) -> bool:
    ops = _ops(graph, layers=True)
    if ops:
        rng.choice(ops).layer = None
    return bool(ops)


def add_layer(graph: Graph, rng: Random) -> bool:
    ops = [op for op in graph if op.layer is None]
    if ops:
        rng.choice(ops).layer = nn.ReLU()
    return bool(ops)


def other_layer(graph: Graph, rng: Random) -> bool:
    ops = _modules(graph)
    if not ops:
        return False
    strange = [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.Identity(), nn.Linear(4, 4)]
    strange += [nn.Sequential(nn.ReLU()), nn.Softplus(2.0), nn.Hardswish(), nn.SiLU()]
    strange += [op.layer for op in ops]
    rng.choice(ops).layer = rng.choice(strange)
    return True


def hidden_code(graph: Graph, rng: Random) -> bool:
    ops = _ops(graph, layers=True)
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
    ops = [op for op in _modules(graph) if [k for k in vars(op.layer) if k[0] != "_"]]
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
    ops = _modules(graph)
    names = [(op, name) for op in ops for name in vars(op.layer) if name[0] != "_"]
    if not names:
        return False
    op, name = rng.choice(names)
    delattr(op.layer, name)
    return True


def _slot(layer: Any, name: str) -> dict[str, Any]:
    return layer._parameters if name in layer._parameters else layer._buffers


def other_tensor(graph: Graph, rng: Random) -> bool:
    found = _with_tensors(graph)
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
    found = _with_tensors(graph)
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
    ops = [op for op in _modules(graph) if len(op.layer._parameters) > 1]
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
    ops = _ops(graph, layers=True)
    if not ops:
        return False
    layer: Any = rng.choice(ops).layer
    if rng.random() < 0.5:
        layer._parameters["extra"] = nn.Parameter(torch.ones(2))
    else:
        layer._buffers["extra"] = torch.ones(2)
    return True


def untie(graph: Graph, rng: Random) -> bool:
    names = [t for _, _, t in _with_tensors(graph)]
    tied = [(op, n) for op, n, t in _with_tensors(graph) if sum(t is o for o in names) > 1]
    if not tied:
        return False
    op, _ = rng.choice(tied)
    op.layer = copy.deepcopy(op.layer)
    return True


def tie(graph: Graph, rng: Random) -> bool:
    found = _with_tensors(graph)
    pairs = [(a, b) for a in found for b in found if a[2] is not b[2] and a[2].shape == b[2].shape]
    if not pairs:
        return False
    (op, name, _), (_, _, tensor) = rng.choice(pairs)
    _slot(op.layer, name)[name] = tensor
    return True


def relayout(graph: Graph, rng: Random) -> bool:
    """The same numbers in another memory order."""
    found = [(op, n, t) for op, n, t in _with_tensors(graph) if t.dim() > 1]
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
    ops = _modules(graph)
    if ops:
        rng.choice(ops).layer.train()
    return bool(ops)


# ---- types, lineage, symbols ---------------------------------------------------------------


def _other_type(type_: TensorType, rng: Random) -> Any:
    dtype, shape = type_.dtype, list(type_.shape)
    match rng.choice(["dtype", "rank", "less", "size", "number", "tuple", "none", "list", "flip"]):
        case "dtype":
            dtypes = [torch.float64, torch.int64, torch.float16, torch.complex128, torch.bool]
            return TensorType(rng.choice(dtypes), type_.shape)
        case "rank":
            return TensorType(dtype, (*shape, 1))
        case "less":
            return TensorType(dtype, tuple(shape[:-1]))
        case "size" if shape:
            i = rng.randrange(len(shape))
            shape[i] = rng.choice(
                [
                    shape[i] + 1,
                    shape[i] * 2,
                    3,
                    509,
                    symbol("b"),
                    symbol("z"),
                    symbol("b") + 1,
                    -1,
                    0,
                ]
            )
            return TensorType(dtype, tuple(shape))
        case "number" if shape:
            i = rng.randrange(len(shape))
            foreign = sympy.Symbol(str(shape[i])) if not isinstance(shape[i], int) else True
            shape[i] = rng.choice([foreign, sympy.Float(4), 4.0, "4", None, sympy.Symbol("b")])
            return TensorType(dtype, tuple(shape))
        case "tuple":
            return TupleType((type_,))
        case "list":
            return TensorType(dtype, shape)  # type: ignore[arg-type]
        case "flip":
            return TensorType(dtype, tuple(reversed(shape)))
    return None


def other_type(graph: Graph, rng: Random) -> bool:
    op = rng.choice([op for op in graph if isinstance(op.type, TensorType)])
    new = _other_type(op.type, rng)
    unchanged = new == op.type
    op.type = new
    return not unchanged


def swap_types(graph: Graph, rng: Random) -> bool:
    a, b = rng.choice(list(graph)), rng.choice(list(graph))
    a.type, b.type = b.type, a.type
    return a.type != b.type


def input_type(graph: Graph, rng: Random) -> bool:
    op = rng.choice(graph.inputs)
    new = _other_type(graph.type_of(op.name), rng)
    unchanged = new == op.type
    op.type = new
    return not unchanged


def lineage(graph: Graph, rng: Random) -> bool:
    op = rng.choice(list(graph))
    names = [o.name for o in graph]
    before = op.lineage
    op.lineage = rng.choice(
        [(), ("a b",), ("a, b",), ("kept",), ("",), (rng.choice(names),), (3,), (*before, "new"),
         ("x kept 1:0",), ("#",), tuple(reversed(before))]
    )  # fmt: skip
    return op.lineage != before


def kept(graph: Graph, rng: Random) -> bool:
    op = rng.choice(list(graph))
    shape = op.type.shape if isinstance(op.type, TensorType) else (1,)
    dim = rng.randrange(len(shape) + 1)
    size = shape[dim] if dim < len(shape) and isinstance(shape[dim], int) else 3
    good = sorted(rng.sample(range(size * 3), size))
    choices: list[Any] = [good, good[:-1], [*good, 999], [0] * size, [-1, *good[1:]], (), ["a"]]
    op.kept = {rng.choice([dim, -1, "0"]): tuple(rng.choice(choices))}
    return True


def width(graph: Graph, rng: Random) -> bool:
    names = list(graph.widths)
    if not names:
        graph.widths = {rng.choice(["b", "w0", "a b", "none"]): rng.choice([0, 3, 4, True])}
        return True
    name = rng.choice(names)
    match rng.choice(["value", "gone", "type", "clash", "swap"]):
        case "value":
            graph.widths[name] += rng.choice([-1, 1, 3])
        case "gone":
            del graph.widths[name]
        case "type":
            graph.widths[name] = rng.choice([4.0, "4", None, True, sympy.Integer(4)])
        case "clash":
            graph.widths["b"] = 4
        case "swap":
            other = rng.choice(names)
            values = graph.widths[other], graph.widths[name]
            graph.widths[name], graph.widths[other] = values
            return values[0] != values[1]
    return True


def width_expression(graph: Graph, rng: Random) -> bool:
    ops = [op for op in _ops(graph) if _sizes(op.args)]
    if not ops:
        return False
    op = rng.choice(ops)
    which = rng.randrange(len(_sizes(op.args)))
    seen = iter(range(99))

    def change(arg: Any) -> Any:
        if isinstance(arg, sympy.Expr) and next(seen) == which:
            x = symbol(rng.choice(["b", "w0", "w1", "nowhere"]))
            return rng.choice([arg + 1, arg * 2, x, arg * x, arg / 3, sympy.sqrt(arg), 7, arg**9])
        return arg

    op.args = map_arg(op.args, change)
    return True


def _sizes(args: Any) -> list[Any]:
    found: list[Any] = []
    map_arg(args, lambda a: found.append(a) if isinstance(a, sympy.Expr) else None)
    return found


def limits(graph: Graph, rng: Random) -> bool:
    bad = [(5, 2), (0, 3), (2.0, 3), (1, None), (4, None), (True, None), (-1, None), (10**30, None)]
    graph.limits = {rng.choice(["b", "z", "", "a b"]): rng.choice([*bad, (2, 9), (3, 10**6)])}
    return True


def graph_name(graph: Graph, rng: Random) -> bool:
    graph.name = rng.choice(["", "a b", "g(", "other", "é", "graph {"])
    return True


# ---- outputs and constants -----------------------------------------------------------------


def outputs(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    before = graph.outputs
    graph.outputs = rng.choice(
        [(), Ref("nowhere"), None, {}, {"a": before}, (before, before), (before, 3), (before, None),
         Ref(rng.choice(names)), [before], {3: before}, (before, object()), (before, torch.ones(1)),
         {"a b": before, "é#": Ref(names[-1])}]
    )  # fmt: skip
    return True


def drop_output(graph: Graph, rng: Random) -> bool:
    if isinstance(graph.outputs, dict) and len(graph.outputs) > 1:
        key = rng.choice(list(graph.outputs))
        graph.outputs = {k: v for k, v in graph.outputs.items() if k != key}
        return True
    if isinstance(graph.outputs, tuple) and len(graph.outputs) > 1:
        graph.outputs = graph.outputs[1:]
        return True
    return False


def rename_output(graph: Graph, rng: Random) -> bool:
    if not isinstance(graph.outputs, dict):
        return False
    graph.outputs = {f"{key}2": value for key, value in graph.outputs.items()}
    return True


_CONSTANTS: list[Any] = [
    0, 1, 2, 3, 4, -1, -2, 5, 17, 100, True, False, None, 0.5, 2.0, -0.0, float("nan"),
    float("inf"), float("-inf"), "mean", "", "a\n#\"", (), (1,), (0, 1), (1, -1), [2], symbol("b"),
    symbol("zz"), symbol("b") * 4, sympy.Float(0.5), sympy.Rational(1, 2), torch.float64,
    torch.complex128, torch.int64, torch.device("cpu"), torch.device("meta"), torch.strided,
    torch.channels_last, object(), torch.ones(2), np.float64(1), np.int64(1), 1j, slice(0, 1),
    {"a": 1}, {1: 2}, 2**40, 2**70, b"a", range(2), Ref("nowhere"), sympy.Symbol("b"),
]  # fmt: skip


def constant(graph: Graph, rng: Random) -> bool:
    """Another constant in place of one, inside a list or not."""
    ops = [op for op in _ops(graph) if _constants(op.args)]
    if not ops:
        return False
    op = rng.choice(ops)
    which = rng.randrange(_constants(op.args))
    seen = iter(range(999))

    def change(arg: Any) -> Any:
        if isinstance(arg, Ref) or next(seen) != which:
            return arg
        near = [arg + 1, arg - 1, -arg] * 8 if type(arg) in (int, float) else []
        return rng.choice([*near, *_CONSTANTS])

    op.args = map_arg(op.args, change)
    return True


def _constants(args: Any) -> int:
    found: list[Any] = []
    map_arg(args, lambda a: None if isinstance(a, Ref) else found.append(a))
    return len(found)


def more_or_fewer_arguments(graph: Graph, rng: Random) -> bool:
    op = rng.choice(_ops(graph))
    args = list(op.args)
    if args and not isinstance(args[-1], Ref) and rng.random() < 0.5:
        args.pop()
    else:
        args.insert(rng.randrange(len(args) + 1), rng.choice(_CONSTANTS))
    op.args = tuple(args)
    return True


def keyword(graph: Graph, rng: Random) -> bool:
    op = rng.choice(list(graph))
    names = [
        "dim",
        "alpha",
        "out",
        "bogus",
        "a b",
        "dtype",
        "keepdim",
        "scale",
        "is_causal",
        "self",
    ]
    if op.kwargs and rng.random() < 0.6:
        name = rng.choice(list(op.kwargs))
        if rng.random() < 0.3:
            del op.kwargs[name]
            return True
    else:
        name = rng.choice(names)
    op.kwargs[name] = rng.choice(_CONSTANTS)
    return True


def getitem_index(graph: Graph, rng: Random) -> bool:
    ops = [op for op in _ops(graph) if op.kind == "getitem"]
    if not ops:
        return False
    op = rng.choice(ops)
    op.args = (op.args[0], rng.choice([0, 1, 2, -1, 99, 1.0, "0", None, True]))
    return True


def input_extras(graph: Graph, rng: Random) -> bool:
    op = rng.choice(graph.inputs)
    match rng.choice(["args", "kwargs", "lineage", "kept"]):
        case "args":
            op.args = (3,)
        case "kwargs":
            op.kwargs = {"a": 1}
        case "lineage":
            op.lineage = ("kept", op.name)
        case "kept":
            op.kept = {1: (0,)}
    return True


MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        drop_edge, add_edge, rekey_edge, move_edge, operands_without_edges, other_operand,
        swap_operands, cycle, reorder, loop_in_order, broken_order, alias_name, two_names,
        illegal_name, erase_node, remove_input, dangle_tensor, other_kind, in_place_kind,
        unknown_operand, drop_layer, add_layer, other_layer, hidden_code, layer_attribute,
        lost_attribute, other_tensor, other_slot, swap_slots, extra_tensor, untie, tie, relayout,
        train_mode, other_type, swap_types, input_type, lineage, kept, width, width_expression,
        limits, graph_name, outputs, drop_output, rename_output, constant, more_or_fewer_arguments,
        keyword, getitem_index, input_extras,
    )
}  # fmt: skip


def apply(name: str, graph: Graph, seed: int) -> bool:
    """Damage a graph in place; whether there was a place. An edit the graph refuses is none."""
    try:
        return MUTATIONS[name](graph, Random(seed))
    except CompresscError:
        return False


assert set(LAYERS) >= {"linear", "parameter", "constant"}
