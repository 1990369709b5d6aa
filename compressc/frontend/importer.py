"""Exported program -> Graph: raising, in-place writes, dropping what computes nothing."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from compressc.collecting import collector_paused
from compressc.errors import CompresscError
from compressc.frontend import bags, complex_writes
from compressc.frontend.held import HeldTensors
from compressc.frontend.inputs.dimensions import OpenDimensions
from compressc.frontend.naming import call_stem, first_path, layer_stem
from compressc.frontend.raising import attention_scale, raise_call
from compressc.frontend.views import changes_nothing, first_operand, is_read_later, texts_of_sizes
from compressc.ir import Graph, Op, Ref, Tensor, TensorType, TupleType
from compressc.ir.ops import NAMESPACES, kind_of, map_arg, overload
from compressc.ir.types import Size, ValueType
from compressc.quiet import quiet

#: Calls without any effect on values.
_DROPPED = {
    "aten._assert_tensor_metadata",
    "aten._assert_scalar",
    "aten._assert_async.msg",
    "aten.sym_constrain_range_for_size",
    "aten.sym_constrain_range",
}
#: Calls whose result is their first operand, where dtype, shape and memory layout are the same.
_ALIASES = {
    "aten.contiguous",
    "aten.alias",
    "aten.detach",
    "aten.detach_",
    "aten.lift_fresh",
    "aten.to.dtype",
    "aten.to.device",
    "aten.to.dtype_layout",
    "aten.to.other",
    "aten.slice.Tensor",
    "aten.type_as",
}
_COPIES = {"aten.clone", "aten.lift_fresh_copy", "aten._to_copy"}
#: Calls that return their operand itself in eval mode, though their schema does not say so.
_HIDDEN_ALIASES = {"aten.dropout", "aten.feature_dropout", "aten.alpha_dropout"}
#: The same values whatever the memory layout.
_RENAMED = {"aten.view": "aten.reshape", "aten._unsafe_view": "aten.reshape"}
#: Regions without an effect on values in eval mode -> position of their body among the arguments.
_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


@collector_paused()
def import_program(
    program: torch.export.ExportedProgram,
    name: str = "model",
    dimensions: Sequence[Sequence[Size]] = (),
) -> Graph:
    """An exported program as a raised graph; the program's tensors are copied.

    Args:
        program: what torch.export gave, for training or for inference.
        name: what the graph prints as.
        dimensions: the shape of each input in the user's letters; equal letters are equal sizes.

    Raises:
        CompresscError: CC202 for what the IR cannot say (buffers that change, control flow,
            data-dependent sizes).
    """
    try:
        return _Importer(program, name, dimensions).run()
    except _ViewWrite:
        with quiet():  # let torch rewrite the writes; only here, for it also rewrites much else
            program = program.run_decompositions({})
        try:
            return _Importer(program, name, dimensions).run()
        except _ViewWrite as error:
            raise CompresscError(
                "CC202",
                "a tensor that is a view of another cannot be written in place",
                where=str(error),
                hint="use the out-of-place form",
            ) from error


class _ViewWrite(Exception):
    """An in-place write that other values see through a view."""


class _Importer:
    """Walks an exported program once and builds the graph."""

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        name: str,
        dimensions: Sequence[Sequence[Size]],
    ) -> None:
        self.program = program
        self.graph = Graph(name)
        self.dimensions = OpenDimensions(program.range_constraints, dimensions, self.graph.limits)
        # torch makes these tables anew whenever they are asked for
        signature = program.graph_signature
        self.targets = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.values: dict[fx.Node, Any] = {}
        self.held = HeldTensors()
        self.aliases: dict[fx.Node, list[fx.Node]] = {}

    def run(self) -> Graph:
        """The graph."""
        writes = self.program.graph_signature.buffers_to_mutate.items()
        changed = [buffer for output, buffer in writes if not self._keeps(buffer, output)]
        if changed:
            raise _own_state(", ".join(changed))
        self._walk(self.program.graph_module)
        if not self.graph.output_names:
            raise CompresscError(
                "CC202",
                "forward() returns tensors, also in tuples and dicts",
                got="none",
                where=self.graph.name,
            )
        erase_dead(self.graph)
        return self.graph

    def _keeps(self, buffer: str, output: str) -> bool:
        """Is what is written into the buffer the buffer itself (`self.p = self.p.to(device)`)?"""
        nodes = {node.name: node for node in self.program.graph.nodes}
        node: Any = nodes.get(output)
        while isinstance(node, fx.Node) and node.op == "call_function":
            kind = self._kind(node)
            if kind not in _ALIASES | _COPIES or not changes_nothing(kind, node):
                return False
            node = node.args[0]
        sources = self.program.graph_signature.inputs_to_buffers
        return isinstance(node, fx.Node) and sources.get(node.name) == buffer

    def _walk(self, module: fx.GraphModule) -> Any:
        for node in module.graph.nodes:
            match node.op:
                case "placeholder":
                    if node not in self.values and node not in self.held:
                        self._placeholder(node)
                case "call_function":
                    self._call(node)
                case "get_attr":
                    value = getattr(module, str(node.target))
                    if isinstance(value, torch.Tensor):
                        self.held.add(node, str(node.target), value)
                case "output" if module is self.program.graph_module:
                    self._output(node)
                case "output":
                    return map_arg(_flat(node.args[0]), self._operand)
        return None

    # ---- inputs --------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> None:
        target = self.targets.get(node.name)
        if target is not None:
            state: Mapping[str, Any] = self.program.state_dict
            value = state[target] if target in state else self.program.constants[target]
            self.held.add(node, target, value)
            return
        if not isinstance(node.meta.get("val"), torch.Tensor):
            if node.users:
                got = str(node.meta.get("val"))
                raise CompresscError(
                    "CC202", "every input must be a tensor", got=got, where=node.name
                )
            return
        self.dimensions.name(node.meta["val"].shape)
        op = Op(self.graph.fresh_name(node.name), "input", type=self._type(node))
        self.values[node] = Ref(self.graph.append(op).name)

    # ---- calls ---------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, torch.SymBool | torch.SymFloat | bool):
            return  # feeds assertions; any other reader is refused when it asks for the value
        if isinstance(value, torch.SymInt | int):
            self.values[node] = self.dimensions.size(value, node.name)
            return
        kind = self._kind(node)
        if kind in _DROPPED or self._copies_itself(kind, node) or self._is_held(kind, node):
            return
        if kind in _REGIONS:
            self.values[node] = self._inline(node, kind)
        elif (result := self._rewritten(kind, node)) is not None:
            self.values[node] = result
        elif kind == "getitem" and isinstance(whole := self.values.get(first_operand(node)), tuple):
            self.values[node] = whole[operator.index(node.args[1])]  # type: ignore[arg-type]
        elif kind in _ALIASES | _COPIES and changes_nothing(kind, node):
            self.values[node] = self._operand(node.args[0])
            if kind in _ALIASES:
                self._alias(node, node.args[0])
        else:
            kind, written = self._functional(kind, node)
            result = self._overwritten(kind, node)
            if result is None:
                result = self._result(self._emit(_RENAMED.get(kind, kind), node), node)
            self.values[node] = result
            if kind in _HIDDEN_ALIASES:
                self._alias(node, node.args[0])
            if written is not None:
                self._alias(node, written)
                self.values |= dict.fromkeys(self.aliases[node], result)

    def _rewritten(self, kind: str, node: fx.Node) -> Any:
        """The results of a call that is computed by others; None where it is not."""
        if kind in bags.CALLS and (found := bags.body_of(node)) is not None:
            return self._inlined(*found) + (None,) * (len(node.meta["val"]) - 1)
        if kind in complex_writes.CALLS and (found := complex_writes.body_of(node)) is not None:
            return self._inlined(*found)[0]
        return None

    def _overwritten(self, kind: str, node: fx.Node) -> Any:
        """The source of a write that replaces a whole tensor (and has no derivative in torch)."""
        if kind not in ("aten.copy", "aten.slice_scatter"):
            return None
        source, whole = node.args[1], node.meta["val"]
        if not isinstance(source, fx.Node) or source.meta["val"].dtype != whole.dtype:
            return None
        if texts_of_sizes(source.meta["val"].shape) != texts_of_sizes(whole.shape):
            return None
        return self._operand(source)

    def _is_held(self, kind: str, node: fx.Node) -> bool:
        """A part of a held tensor; and `weight.float()` of a weight in float32 is the weight."""
        if self.held.absorb(node):
            return True
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node) or first not in self.held or first in self.values:
            return False
        if not kind.startswith("aten.to.") or not changes_nothing(kind, node):
            return False
        self.held.link(node, first)
        self._alias(node, first)
        return True

    def _copies_itself(self, kind: str, node: fx.Node) -> bool:
        if kind != "aten.copy_" or not isinstance(node.args[1], fx.Node):
            return False
        target, source = node.args[0], node.args[1]
        if target in self.held and source in self.held:
            return self.held.tensor(source) is self.held.tensor(first_operand(node))
        return bool(self._operand(source) == self._operand(target))

    def _kind(self, node: fx.Node) -> str:
        target = node.target
        if target is operator.getitem:
            return "getitem"
        if isinstance(target, torch._ops.OpOverload) and target.namespace in NAMESPACES:
            return kind_of(target)
        name = getattr(target, "__name__", str(target))
        if name in _REGIONS:
            return name
        raise CompresscError(
            "CC202",
            "the graph may call operators of " + ", ".join(NAMESPACES),
            got=str(target),
            where=node.name,
            hint='load it with experts_implementation="batched_mm"'
            if "grouped_mm" in name
            else "control flow and operators of other libraries cannot be compressed",
        )

    def _inline(self, node: fx.Node, kind: str) -> Any:
        """The body of a no_grad or disabled-autocast region, in place."""
        body = node.args[_REGIONS[kind]]
        assert isinstance(body, fx.Node)
        module = getattr(body.graph.owning_module, str(body.target))
        if kind == "wrap_with_autocast" and node.args[2]:
            raise CompresscError(
                "CC202",
                "a model computes in the floats that its values have",
                got=f"a region of torch.autocast in {str(node.args[1]).removeprefix('torch.')}",
                where=first_path(module.graph.nodes),
                hint="leave autocast to what calls the model; quant(mode=cast) makes it bfloat16",
            )
        return self._inlined(module, node.args[_REGIONS[kind] + 1 :])

    def _inlined(self, module: fx.GraphModule, operands: Sequence[Any]) -> Any:
        inner = [n for n in module.graph.nodes if n.op == "placeholder"]
        for place, operand in zip(inner, operands, strict=True):
            if isinstance(operand, fx.Node) and operand in self.held:
                self.held.link(place, operand)
            else:
                self.values[place] = self._operand(operand)
        return self._walk(module)

    def _alias(self, node: fx.Node, source: Any) -> None:
        group = self.aliases.setdefault(source, [source])
        group.append(node)
        self.aliases[node] = group

    def _functional(self, kind: str, node: fx.Node) -> tuple[str, fx.Node | None]:
        """`aten.relu_` as `aten.relu`, and the value it overwrites."""
        packet, dot, rest = kind.removeprefix("aten.").partition(".")
        if not packet.endswith("_") or packet.endswith("__"):
            return kind, None
        written = first_operand(node)
        group = self.aliases.get(written, [written])
        if any(member in self.held for member in group):
            raise _own_state(self.held.name(written))
        if is_read_later(node, group):
            raise _ViewWrite(f"{kind}, {node.name}")
        return f"aten.{packet[:-1]}{dot}{rest}", written

    def _result(self, op: Op, node: fx.Node) -> Any:
        """What stands for the call; a layer is the first of the call's results, if it has more."""
        several = op.layer is not None and isinstance(node.meta["val"], tuple | list)
        return (Ref(op.name),) if several else Ref(op.name)

    def _emit(self, kind: str, node: fx.Node) -> Op:
        bound = self._bind(kind, node)
        raised = raise_call(kind, bound)
        if raised is not None:
            kind, layer, operands = raised
            args = tuple(map_arg(operand, self._operand_of(node)) for operand in operands)
            name = self.graph.fresh_name(layer_stem(node, kind, self.held))  # operands name theirs
            type_ = self._type(node)
            first = type_.items[0] if isinstance(type_, TupleType) else type_
            op = Op(name, kind, args, layer=layer, type=first, lineage=(name,))
            return self.graph.append(op)
        args, kwargs = map_arg(node.args, self._operand), map_arg(node.kwargs, self._operand)
        if "scale" in bound:
            attention_scale(kind, kwargs, first_operand(node).meta["val"].shape[-1])
        name = self.graph.fresh_name(call_stem(node, self._kind(node)))
        op = Op(name, kind, args, kwargs, type=self._type(node), lineage=(name,))
        return self.graph.append(op)

    def _bind(self, kind: str, node: fx.Node) -> dict[str, Any]:
        """Arguments by schema name; held tensors as tensors, values as references."""
        target = overload(kind)  # not the node's: `dropout_(self)` is `dropout(input)`
        if not isinstance(target, torch._ops.OpOverload):
            return {}
        arguments = target._schema.arguments
        bound = {a.name: a.default_value for a in arguments if a.has_default_value()}
        names = [argument.name for argument in arguments]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        bound |= {key: map_arg(value, self._resolve) for key, value in given.items()}
        for name, value in given.items():
            if isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor):
                bound[f"#{name}"] = value.meta["val"].dim()
        if (weight := self.held.transposed_operand(node)) is not None:
            bound["#weight"] = weight
        if isinstance(node.meta["val"], tuple | list):
            bound["#results"] = {user.args[1] for user in node.users}
        return bound

    def _resolve(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node) and arg in self.held:
            return self.held.tensor(arg)
        if isinstance(arg, fx.Node) and self.held.origin(arg) is not arg:
            return arg  # becomes an op only if the layer reads it
        return self._operand(arg)

    def _operand(self, arg: Any) -> Any:
        """An argument as the IR holds it; a held tensor becomes an op of its own."""
        if isinstance(arg, fx.Node):
            if arg not in self.values and arg in self.held:
                self.values[arg] = Ref(self._tensor_op(arg).name)
            if arg not in self.values and self.held.origin(arg) is not arg:
                self.values[arg] = Ref(self._emit(self._kind(arg), arg).name)
            if arg not in self.values:
                raise CompresscError(
                    "CC202",
                    "only tensors and sizes can be computed with",
                    got=str(arg.meta.get("val")),
                    where=arg.name,
                    hint="a number that is read out of a tensor (.item(), int(x)) must stay one",
                )
            return self.values[arg]
        if isinstance(arg, torch.SymInt):
            return self.dimensions.size(arg)
        return arg

    def _tensor_op(self, node: fx.Node) -> Op:
        tensor = self.held.tensor(node)
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "constant"
        name = self.graph.fresh_name(self.held.name(node))
        type_ = TensorType(tensor.dtype, tuple(tensor.shape))
        return self.graph.append(Op(name, kind, layer=Tensor(tensor), type=type_, lineage=(name,)))

    def _operand_of(self, node: fx.Node) -> Any:
        """Operands of a raised layer that are held tensors need an op after all."""
        tensors = {id(self.held.tensor(n)): n for n in node.all_input_nodes if n in self.held}

        def change(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return self._operand(tensors[id(value)])
            return self._operand(value) if isinstance(value, fx.Node) else value

        return change

    # ---- types and outputs ---------------------------------------------------------------------

    def _type(self, node: fx.Node) -> ValueType:
        value = node.meta["val"]
        if isinstance(value, tuple | list):
            return TupleType(tuple(self._tensor_type(item, node.name) for item in value))
        return self._tensor_type(value, node.name)

    def _tensor_type(self, value: Any, name: str) -> TensorType:
        sizes = (self.dimensions.size(size, name) for size in value.shape)
        return TensorType(value.dtype, tuple(sizes))

    def _output(self, node: fx.Node) -> None:
        flat = [self._operand(arg) for arg in _flat(node.args[0])]
        spec = self.program.call_spec.out_spec
        user_outputs = flat[len(flat) - spec.num_leaves :] if spec is not None else flat
        structured = pytree.tree_unflatten(user_outputs, spec) if spec is not None else user_outputs
        self.graph.outputs = _plain(structured)


def erase_dead(graph: Graph) -> None:
    """Erase what nothing reads, and count no edits: no pass has run yet."""
    for op in reversed(list(graph)):
        unused = not graph.users(op.name) and op.name not in graph.output_names
        if unused and op.kind != "input":
            graph.erase(op.name)
    graph.edits.clear()


def _own_state(name: str) -> CompresscError:
    return CompresscError(
        "CC202",
        "a model must not change its own buffers when it runs",
        got=f"a write into {name}",
        hint="export it in eval mode; caches and counters cannot be compressed",
    )


def _flat(arg: Any) -> tuple[Any, ...]:
    return tuple(arg) if isinstance(arg, tuple | list) else (arg,)


def _plain(value: Any) -> Any:
    """Output structure in tuples and dicts only; data classes and ModelOutputs become dicts."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    if is_dataclass(value) and not isinstance(value, Ref):
        return _plain({each.name: getattr(value, each.name) for each in fields(value)})
    return value
