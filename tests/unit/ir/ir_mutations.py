"""Ways to damage a graph, each at a random place. A mutation returns whether it found a place."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import sympy
import torch
from layer_mutations import (
    Mutation,
    add_layer,
    drop_layer,
    extra_tensor,
    hidden_code,
    layer_attribute,
    lost_attribute,
    ops_of,
    other_layer,
    other_slot,
    other_tensor,
    relayout,
    swap_slots,
    tie,
    train_mode,
    untie,
)
from order_mutations import (
    add_edge,
    broken_order,
    cycle,
    drop_edge,
    loop_in_order,
    move_edge,
    operands_without_edges,
    other_operand,
    rekey_edge,
    reorder,
    swap_operands,
)
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import (
    Graph,
    Op,
    Ref,
    Tensor,
    TensorType,
    TupleType,
    symbol,
)
from compressc.ir.ops import map_arg

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
    op = rng.choice([op for op in ops_of(graph) if op.args])
    args = list(op.args)
    args[rng.randrange(len(args))] = Ref(rng.choice(["nowhere", op.name, ""]))
    op.args = tuple(args)
    return True


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
    ops = [op for op in ops_of(graph) if _sizes(op.args)]
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
    ops = [op for op in ops_of(graph) if _constants(op.args)]
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
    op = rng.choice(ops_of(graph))
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
    ops = [op for op in ops_of(graph) if op.kind == "getitem"]
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
