"""Numbers that a module keeps beside its layers: heads, head widths, sizes of a split.

What each became is read off the graph: sizes of values and tensors around the module, before and
after. Where one number became several, its name tells, and at last whether the module then computes
what the graph does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
from torch import nn

from compressc.ir import Graph, Op, TensorType, evaluate, layer_tensors
from compressc.ir.ops import map_arg
from compressc.transplant.homes import module_paths

#: What attributes of attention are called.
_HEAD_WIDTH = re.compile(r"head_?(dim|size|width)|d_?head|dim_head|^d_?k$|attention_head_size|_hd$")
_HEADS = re.compile(r"heads|n_?head$|num_head")
_GROUPS = re.compile(r"(key_value|kv).*groups|n_rep")
#: What attributes of a layer that is none of torch's are called: those of Conv1D, and others.
_OUT, _IN = re.compile(r"^(nf|out)"), re.compile(r"^(nx|in)")
#: Usually the width of the residual stream.
_STREAM = re.compile(r"embed_dim|hidden_size|d_model|^dim$|^width$|^nx$")

Pair = tuple[int, int]


@dataclass
class _Evidence:
    """Sizes around one module, each before and after."""

    sizes: dict[Pair, None] = field(default_factory=dict)
    heads: dict[Pair, None] = field(default_factory=dict)
    head_widths: dict[Pair, None] = field(default_factory=dict)
    own: dict[int, Pair] = field(default_factory=dict)  # dimension of its weight -> sizes


@dataclass(frozen=True)
class Count:
    """One attribute that holds a size.

    Attributes:
        path: of the module.
        name: of the attribute.
        values: what it may have to become, the likeliest first.
    """

    path: str
    name: str
    values: tuple[int, ...]


def find_counts(before: Graph, after: Graph, module: nn.Module) -> list[Count]:
    """The attributes of a module that hold sizes which have changed, or may have.

    Args:
        before: the graph of the module.
        after: what was made of it.
        module: its layers are not changed yet.
    """
    found = []
    gathered = _gather(before, after, module)
    for path, evidence in gathered.items():
        part = module.get_submodule(path)
        if type(part).__module__.startswith("torch.nn.modules") and not list(part.children()):
            continue  # a layer of torch: its sizes are those of its tensors
        for name, value in vars(part).items():
            if type(value) is int and value > 0 and not name.startswith("_"):
                values = _became(name, value, evidence)
                if values and values != (value,):
                    found.append(Count(path, name, values))
    return found


def _became(name: str, value: int, evidence: _Evidence) -> tuple[int, ...]:
    if _GROUPS.search(name):
        return _ratio(value, evidence.heads)
    for pattern, pairs in (
        (_HEAD_WIDTH, evidence.head_widths),
        (_HEADS, evidence.heads),
        (_OUT, [evidence.own[1]] if 1 in evidence.own else []),
        (_IN, [evidence.own[0]] if 0 in evidence.own else []),
    ):
        if pattern.search(name) and (values := _after(value, pairs)):
            return values
    values = _after(value, evidence.sizes)
    stays = bool(_STREAM.search(name))
    return tuple(sorted(values, key=lambda after: (after == value) != stays))


def _after(value: int, pairs: Any) -> tuple[int, ...]:
    return tuple(dict.fromkeys(new for old, new in pairs if old == value))


def _ratio(value: int, heads: Mapping[Pair, None]) -> tuple[int, ...]:
    """Of query heads to key heads."""
    found = [
        new // other_new
        for old, new in heads
        for other, other_new in heads
        if old == value * other and other_new and new % other_new == 0
    ]
    return tuple(dict.fromkeys(found))


def _gather(before: Graph, after: Graph, module: nn.Module) -> dict[str, _Evidence]:
    """Path of each module -> sizes of the ops it makes itself or through its leaf modules."""
    paths = module_paths(module)
    found: dict[str, _Evidence] = {}
    for op in before:
        if op.name not in after or op.kind == "input":
            continue
        twin = after[op.name]
        path = _nearest(op.name, paths)
        is_layer = bool(path) and not list(module.get_submodule(path).children())
        if is_layer and op.layer is not None:
            own = found.setdefault(path, _Evidence())
            own.own.update(enumerate(reversed(list(_tensor_sizes(op, twin))[:2])))
            own.sizes.update(dict.fromkeys(_tensor_sizes(op, twin)))
        parent = path.rpartition(".")[0] if is_layer else path
        _look(op, twin, before, after, found.setdefault(parent, _Evidence()))
    return found


def _nearest(name: str, paths: Mapping[str, str]) -> str:
    """Path of the innermost module that a name lies in."""
    while name and name not in paths:
        name = name.rpartition(".")[0]
    return paths.get(name, "")


def _look(op: Op, twin: Op, before: Graph, after: Graph, evidence: _Evidence) -> None:
    sizes = [*_tensor_sizes(op, twin), *_argument_sizes(op, twin, before, after)]
    types = list(_type_sizes(op, twin))
    for position, pair in types:
        sizes.append(pair)
        rank = len(op.type.shape)  # type: ignore[union-attr]
        if op.packet == "aten.reshape" and rank >= 4:
            if position == rank - 2:
                evidence.heads[pair] = None
            if position == rank - 1:
                evidence.head_widths[pair] = None
    evidence.sizes.update(dict.fromkeys(sizes))


def _tensor_sizes(op: Op, twin: Op) -> Iterator[Pair]:
    """Of the tensors of a layer, dimension by dimension, the weight's first."""
    if op.layer is None or twin.layer is None:
        return
    others = dict(layer_tensors(twin.layer))
    for name, tensor in layer_tensors(op.layer):
        if name in others and others[name].dim() == tensor.dim():
            yield from zip(tensor.shape, others[name].shape, strict=True)


def _argument_sizes(op: Op, twin: Op, before: Graph, after: Graph) -> Iterator[Pair]:
    """Of the expressions of widths that an op is called with."""
    found: list[Pair] = []

    def see(arg: Any) -> Any:
        if isinstance(arg, sympy.Expr):
            symbols = {str(symbol) for symbol in arg.free_symbols}
            if symbols <= before.widths.keys() & after.widths.keys():
                found.append((evaluate(arg, before.widths), evaluate(arg, after.widths)))
        return arg

    map_arg((op.args, op.kwargs), see)
    yield from found


def _type_sizes(op: Op, twin: Op) -> Iterator[tuple[int, Pair]]:
    if isinstance(op.type, TensorType) and isinstance(twin.type, TensorType):
        pairs = zip(op.type.shape, twin.type.shape, strict=False)
        for position, (old, new) in enumerate(pairs):
            if isinstance(old, int) and isinstance(new, int):
                yield position, (old, new)
