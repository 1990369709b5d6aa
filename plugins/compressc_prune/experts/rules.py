"""What each op makes of a router's scores and of the choice among them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from compressc.analysis.arguments import argument
from compressc.analysis.equations import labels_of
from compressc.ir import Op, TupleType
from compressc.ir.moves import MOVES
from compressc.ir.ops import overload
from compressc_prune.experts.operands import adopt, dimension, meet, write
from compressc_prune.experts.routing import Along, Chosen, NoExperts, Results, State, Trace, Written

_LIKE = ("zeros_like", "ones_like", "full_like")


def made_of(t: Trace, op: Op) -> State:
    """What an op makes of what it reads; see `Trace.follow`."""
    rule = _rule(op)
    if rule is None:
        raise _beyond(t, op)
    return rule(t, op)


def _rule(op: Op) -> Callable[[Trace, Op], State] | None:
    name = op.packet.removeprefix("aten.")
    if op.kind == "getitem":
        return _item
    if name in _RULES:
        return _RULES[name]
    if op.role in ("activation", "dropout") or name in _LIKE:
        return _pointwise
    if op.layer is None and torch.Tag.pointwise in getattr(overload(op.kind), "tags", ()):
        return _pointwise
    return _same if MOVES.get(op.packet) in ("same", "cast") else None


def _beyond(t: Trace, op: Op) -> NoExperts:
    of = [t.states.get(name) for name in op.inputs]
    what = "choice" if any(isinstance(state, Chosen) for state in of) else "scores"
    return NoExperts(f"%{op.name} reads the {what}")


def _first(t: Trace, op: Op) -> State:
    """State of the only operand that has one; it is the first."""
    states = [t.states.get(name) for name in op.inputs]
    if states[0] is None or any(state is not None for state in states[1:]):
        raise _beyond(t, op)
    return states[0]


def _along(t: Trace, op: Op, *, grouped: bool = False) -> Along:
    state = _first(t, op)
    if not isinstance(state, Along) or (state.groups and not grouped):
        raise _beyond(t, op)
    return state


def _hold(t: Trace, op: Op, name: str, dim: int) -> None:
    """An operand has something for each expert along a dimension."""
    if t.states.get(name) is None:
        adopt(t, name, dim)
    if t.states.get(name) not in (Along(dim), None):
        raise _beyond(t, op)


# ---- element by element --------------------------------------------------------------------------


def _same(t: Trace, op: Op) -> State:
    return _first(t, op)


def _pointwise(t: Trace, op: Op) -> State:
    states = [t.states.get(name) for name in op.inputs]
    if any(state is not None and not isinstance(state, Along) for state in states):
        raise _beyond(t, op)
    size = len(t.shape(op.name))
    moved = {
        Along(state.dim + size - len(t.shape(name)), state.groups)
        for name, state in zip(op.inputs, states, strict=True)
        if isinstance(state, Along)
    }
    if len(moved) != 1:
        raise NoExperts(f"%{op.name} has experts along several dimensions")
    (state,) = moved
    for name, known in zip(op.inputs, states, strict=True):
        if known is None:
            meet(t, op, name, state)
    return state


# ---- choices -------------------------------------------------------------------------------------


def _best(t: Trace, op: Op) -> State:
    """The best k, or the best one: their scores, and which they are."""
    state = _along(t, op, grouped=True)
    dim = dimension(t, op)
    count = int(argument(op, "k") or 1) if op.packet == "aten.topk" else 1
    if state.groups and dim == state.dim + 1:
        t.choose(op, count, in_group=True)
        return Results((None, Results(())))  # numbers within a group say nothing alone
    if state.groups or dim != state.dim:
        raise NoExperts("the choice is not along the scores")
    t.choose(op, count)
    return Results((None, Chosen()))


def _argmax(t: Trace, op: Op) -> State:
    results = _best(t, op)
    assert isinstance(results, Results)
    chosen = results.items[1]
    assert not isinstance(chosen, int)
    return chosen


def _max(t: Trace, op: Op) -> State:
    return _best(t, op) if op.kind == "aten.max.dim" else _pointwise(t, op)


def _item(t: Trace, op: Op) -> State:
    results = t.states[op.inputs[0]]
    if not isinstance(results, Results) or not results.items:
        raise _beyond(t, op)
    item = results.items[op.args[1]]
    if isinstance(item, int):
        t.experts.picks[op.name] = item
        return None
    return item


def _equal(t: Trace, op: Op) -> State:
    """`chosen == 3` is what expert 3 is asked with."""
    if not any(isinstance(t.states.get(name), Chosen) for name in op.inputs):
        return _pointwise(t, op)
    number = argument(op, "other")
    if op.kind != "aten.eq.Scalar" or not 0 <= number < t.experts.count:
        raise _beyond(t, op)
    t.experts.picks[op.name] = int(number)
    return None


def _one_hot(t: Trace, op: Op) -> State:
    if not isinstance(_first(t, op), Chosen) or argument(op, "num_classes") != t.experts.count:
        raise _beyond(t, op)
    t.experts.written.append(Written(op.name, "num_classes", None))
    return Along(len(t.shape(op.name)) - 1)


def _gather(t: Trace, op: Op) -> State:
    """Scores, or what the experts computed, of those that are chosen."""
    held, chosen = op.inputs
    if not isinstance(t.states.get(chosen), Chosen):
        raise _beyond(t, op)
    _hold(t, op, held, dimension(t, op))
    return None


def _scatter(t: Trace, op: Op) -> State:
    """What is chosen at its place among all."""
    dim = dimension(t, op)
    held, chosen, *source = op.inputs
    if not isinstance(t.states.get(chosen), Chosen) or any(t.states.get(s) for s in source):
        raise _beyond(t, op)
    if t.states.get(held) is None:
        adopt(t, held, dim)
    if t.states.get(held) != Along(dim):
        raise _beyond(t, op)
    return Along(dim)


def _concat(t: Trace, op: Op) -> State:
    """Several choices, one behind the other."""
    if not all(isinstance(t.states.get(name), Chosen) for name in op.inputs):
        raise _beyond(t, op)
    return Chosen()


def _index(t: Trace, op: Op) -> State:
    """Weights of those that are chosen, out of all that are stacked."""
    held, places = op.args
    dims = [i for i, place in enumerate(places) if place is not None]
    if len(dims) != 1 or not isinstance(t.states.get(places[dims[0]].name), Chosen):
        raise _beyond(t, op)
    _hold(t, op, held.name, dims[0])
    return None


# ---- one expert's --------------------------------------------------------------------------------


def _select(t: Trace, op: Op) -> State:
    state, dim = _along(t, op), dimension(t, op)
    if dim != state.dim:
        return Along(state.dim - (dim < state.dim))
    t.experts.picks[op.name] = int(argument(op, "index")) % t.experts.count
    return None


def _slice(t: Trace, op: Op) -> State:
    state = _along(t, op)
    if dimension(t, op) != state.dim:
        return state
    start, count = int(argument(op, "start") or 0), t.experts.count
    if t.shape(op.name)[state.dim] == count:
        return state
    if t.shape(op.name)[state.dim] != 1:
        raise NoExperts(f"%{op.name} takes several of the scores")
    t.experts.picks[op.name] = start % count
    return None


def _parts(t: Trace, op: Op) -> State:
    """All of them, one by one."""
    state = _along(t, op)
    count = t.experts.count
    dim = dimension(t, op)
    parts = len(op.type.items) if isinstance(op.type, TupleType) else 0
    if dim != state.dim:
        raise _beyond(t, op)
    if parts != count:
        raise NoExperts(f"%{op.name} takes several of the scores")
    return Results(tuple(range(count)))


# ---- shapes --------------------------------------------------------------------------------------


def _reshape(t: Trace, op: Op) -> State:
    state = _first(t, op)
    if isinstance(state, Chosen):
        return state
    if not isinstance(state, Along):
        raise _beyond(t, op)
    before, after = t.shape(op.inputs[0]), t.shape(op.name)
    count, last = t.experts.count, len(after) - 1
    if state.groups or state.dim == len(before) - 1:
        if after[last] == count:
            write(t, op, {last})
            return Along(last)
        each = count // after[last - 1] if last and isinstance(after[last - 1], int) else 0
        if not state.groups and each and after[last] == each and each * after[last - 1] == count:
            t.group(int(after[last - 1]))
            write(t, op, {last}, of_group=True)
            return Along(last - 1, int(after[last - 1]))
        raise _beyond(t, op)
    behind = before[state.dim :]
    if after[-len(behind) :] != behind:
        raise _beyond(t, op)
    write(t, op, {len(after) - len(behind)})
    return Along(len(after) - len(behind))


def _unsqueeze(t: Trace, op: Op) -> State:
    state = _first(t, op)
    if isinstance(state, Along):
        at = int(argument(op, "dim")) % len(t.shape(op.name))
        return Along(state.dim + (at <= state.dim), state.groups)
    return state


def _squeeze(t: Trace, op: Op) -> State:
    state = _first(t, op)
    if isinstance(state, Chosen):
        return state
    if not isinstance(state, Along) or op.kind != "aten.squeeze.dim":
        raise _beyond(t, op)
    return Along(state.dim - (dimension(t, op) < state.dim), state.groups)


def _reorder(t: Trace, op: Op) -> State:
    state = _first(t, op)
    if isinstance(state, Chosen):
        return state
    if not isinstance(state, Along) or state.groups:
        raise _beyond(t, op)
    size = len(t.shape(op.name))
    if op.packet == "aten.transpose":
        order = list(range(size))
        a, b = int(argument(op, "dim0")), int(argument(op, "dim1"))
        order[a], order[b] = order[b], order[a]
    else:
        order = [int(dim) % size for dim in argument(op, "dims")]
    return Along(order.index(state.dim))


def _expand(t: Trace, op: Op) -> State:
    state = _first(t, op)
    if isinstance(state, Chosen):
        return state
    if not isinstance(state, Along) or state.groups:
        raise _beyond(t, op)
    dim = state.dim + len(t.shape(op.name)) - len(t.shape(op.inputs[0]))
    write(t, op, {dim})
    return Along(dim)


# ---- over the experts ----------------------------------------------------------------------------


def _reduce(t: Trace, op: Op) -> State:
    """Over the experts nothing of them is left; over others their dimension moves."""
    state = _along(t, op, grouped=True)
    size = len(t.shape(op.inputs[0]))
    told = argument(op, "dim")
    told = tuple(range(size)) if told in (None, ()) else told
    dims = {int(dim) % size for dim in (told if isinstance(told, tuple) else (told,))}
    if state.groups:
        if dims != {state.dim + 1}:
            raise _beyond(t, op)
        return None
    if state.dim in dims:
        return None
    keeps = bool(argument(op, "keepdim"))
    return Along(state.dim - (0 if keeps else sum(dim < state.dim for dim in dims)))


def _softmax(t: Trace, op: Op) -> State:
    return _along(t, op)


def _product(t: Trace, op: Op) -> State:
    """Matrices whose inner dimension counts the experts."""
    left, right = op.inputs
    inner = {left: len(t.shape(left)) - 1, right: max(0, len(t.shape(right)) - 2)}
    for name, dim in inner.items():
        _hold(t, op, name, dim)
    return None


def _einsum(t: Trace, op: Op) -> State:
    names = [ref.name for ref in argument(op, "tensors")]
    letters, out = labels_of(argument(op, "equation"), [len(t.shape(name)) for name in names])
    found = {
        term[state.dim]
        for term, name in zip(letters, names, strict=True)
        if isinstance(state := t.states.get(name), Along) and not state.groups
    }
    if len(found) != 1 or any(isinstance(t.states.get(name), Chosen) for name in names):
        raise _beyond(t, op)
    (letter,) = found
    for term, name in zip(letters, names, strict=True):
        if letter in term and t.states.get(name) is None:
            adopt(t, name, term.index(letter))
    return Along(out.index(letter)) if letter in out else None


_RULES: dict[str, Callable[[Trace, Op], State]] = {
    "softmax": _softmax,
    "_softmax": _softmax,
    "log_softmax": _softmax,
    "topk": _best,
    "max": _max,
    "argmax": _argmax,
    "eq": _equal,
    "one_hot": _one_hot,
    "gather": _gather,
    "scatter": _scatter,
    "cat": _concat,
    "concat": _concat,
    "index": _index,
    "select": _select,
    "slice": _slice,
    "unbind": _parts,
    "split": _parts,
    "chunk": _parts,
    "reshape": _reshape,
    "view": _reshape,
    "_unsafe_view": _reshape,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "transpose": _reorder,
    "permute": _reorder,
    "expand": _expand,
    "sum": _reduce,
    "amax": _reduce,
    "any": _reduce,
    "matmul": _product,
    "bmm": _product,
    "einsum": _einsum,
}
