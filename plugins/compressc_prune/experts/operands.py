"""What meets a router's scores and has one index per expert, too, but is not made of them."""

from __future__ import annotations

from compressc.analysis.arguments import argument
from compressc.ir import Op
from compressc.ir.moves import MOVES
from compressc_prune.experts.routing import Along, NoExperts, Trace, Written

#: Call -> the argument that lists the sizes of its result.
SIZES = {"aten.reshape": "shape", "aten.view": "size", "aten._unsafe_view": "size"} | {
    f"aten.{name}": "size"
    for name in ["expand", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full"]
}
#: Calls that make a value of their sizes alone.
_MADE = ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")
_LISTS = ("aten.stack", "aten.cat")


def dimension(t: Trace, op: Op, name: str = "dim", of: str = "") -> int:
    """A dimension that an op is told, counted from the front of what it reads."""
    dim = argument(op, name)
    return int(-1 if dim is None else dim) % len(t.shape(of or op.inputs[0]))


def meet(t: Trace, op: Op, name: str, state: Along) -> None:
    """Another operand of an op of which a result has one index per expert."""
    shape = t.shape(name)
    dim = state.dim - len(t.shape(op.name)) + len(shape)
    if state.groups:
        if dim + 1 >= 0 and shape[dim + 1] != 1:
            raise NoExperts(f"%{name} meets scores in groups")
        return
    if dim >= 0 and shape[dim] != 1:
        adopt(t, name, dim)
        if op.packet == "aten.add" and name in t.experts.weights:
            t.experts.shifts.append(name)


def adopt(t: Trace, name: str, dim: int) -> None:
    """A value that is not made of the scores and has one index per expert all the same."""
    op, count = t.graph[name], t.experts.count
    if t.shape(name)[dim] != count:
        raise NoExperts(f"%{name} meets the scores")
    t.read.add(name)
    if op.kind in ("parameter", "constant"):
        t.experts.weights[name] = dim
        return
    t.set(name, Along(dim))
    if op.packet in _LISTS and len(op.args[0]) == count and dimension(t, op, of=name) == dim:
        t.experts.lists.append(name)
    elif op.packet.removeprefix("aten.") in _MADE:
        write(t, op, {dim})
    elif MOVES.get(op.packet) in ("same", "cast") or op.packet == "aten.bitwise_not":
        adopt(t, op.inputs[0], dim)
    elif op.packet == "aten.squeeze":
        shape = t.shape(op.inputs[0])
        wide = [at for at, size in enumerate(shape) if size != 1]
        if len(wide) != 1:
            raise NoExperts(f"%{name} meets the scores")
        adopt(t, op.inputs[0], wide[0])
    elif op.packet == "aten.unsqueeze":
        at = int(argument(op, "dim")) % len(t.shape(name))
        adopt(t, op.inputs[0], dim - (at < dim))
    elif not (op.packet == "aten.reshape" and _repeats(t, op, dim)):
        raise NoExperts(f"%{name} meets the scores")


def _repeats(t: Trace, op: Op, dim: int) -> bool:
    """Whether a value has one number for each group, written out for each expert of it."""
    made, copies = op, []
    while MOVES.get(made.packet) == "same" or made is op:
        made = t.graph[made.inputs[0]]
        copies.append(made.name)
    wide = t.shape(made.name)
    held = made.inputs and t.shape(made.inputs[0])
    if made.packet != "aten.expand" or dim + 2 != len(wide) or wide[dim] != t.experts.groups:
        return False
    if not held or held[-1] != 1 or len(held) != len(wide):
        return False
    write(t, op, {dim})
    write(t, made, {dim + 1}, of_group=True)
    for name in copies:
        t.set(name, Along(dim, t.experts.groups))
        t.read.add(name)
    return True


def write(t: Trace, op: Op, dims: set[int], *, of_group: bool = False) -> None:
    """Note the sizes that an op has written down for dimensions of its result."""
    name = SIZES[op.packet]
    sizes = argument(op, name)
    for dim in dims:
        size = sizes[dim]
        if size == -1:
            continue
        if not isinstance(size, int):
            raise NoExperts(f"%{op.name} has its size written as {size}")
        t.experts.written.append(Written(op.name, name, dim, of_group))
