"""nn.Module -> exported program -> Graph: tracing, naming, and dropping what computes nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from compressc.errors import CompresscError
from compressc.frontend.raising import attention_scale, raise_call
from compressc.ir import Graph, Op, Ref, Tensor, TensorType, TupleType, symbol
from compressc.ir.ops import kind_of, map_arg
from compressc.ir.types import ValueType, simplify_size

#: Calls without any effect on values.
_DROPPED = {
    "aten._assert_tensor_metadata",
    "aten._assert_scalar",
    "aten._assert_async.msg",
    "aten.sym_constrain_range_for_size",
    "aten.sym_constrain_range",
}
#: Calls whose result is their first operand.
_IDENTITIES = {
    "aten.contiguous",
    "aten.alias",
    "aten.detach",
    "aten.detach_",
    "aten.clone",
    "aten.lift_fresh_copy",
    "aten.to.dtype",
    "aten.to.device",
    "aten.to.dtype_layout",
    "aten._to_copy",
    "aten.slice.Tensor",
    "aten.type_as",
}
#: A traced batch of one would be taken for a constant.
_LEAST_BATCH = 3


def export_module(module: nn.Module, example: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """Trace a module with its first dimension left open in every input.

    Args:
        module: any module that takes tensors positionally; put into eval mode for the trace.
        example: input tensors [n, ...].

    Raises:
        CompresscError: CC202 where the module cannot be traced, CC204 where it rejects the inputs.
    """
    inputs = tuple(_at_least(tensor, _LEAST_BATCH) for tensor in example)
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            module(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in inputs)
        raise CompresscError(
            "CC204",
            "the model must accept its inputs",
            got=f"{_first_line(error)} for {shapes}",
            hint="check the data set, or give --input",
        ) from error
    dynamic = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    try:
        with _quiet():
            return torch.export.export(module, inputs, dynamic_shapes=(dynamic,) if _is_varargs(module) else dynamic, strict=False)
    except Exception as error:  # torch.export raises what the user's own forward raises
        raise CompresscError(
            "CC202",
            "the model cannot be traced by torch.export",
            got=_first_line(error),
            hint="make forward() free of Python branches on tensor values",
        ) from error
    finally:
        module.train(training)


def _is_varargs(module: nn.Module) -> bool:
    import inspect

    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return bool(kinds) and kinds[0] is inspect.Parameter.VAR_POSITIONAL


def _at_least(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    repeats = -(-batch // len(tensor)) if len(tensor) else 1
    return tensor.repeat(repeats, *[1] * (tensor.dim() - 1))[: max(batch, min(len(tensor), 8))]


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export warns and logs about matters that are ours, not the user's."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:200]}" if lines else type(error).__name__


def import_program(program: torch.export.ExportedProgram, name: str = "model") -> Graph:
    """An exported program as a raised graph; the program's tensors are copied.

    Raises:
        CompresscError: CC202 for what the IR cannot say (writes into views, data-dependent sizes).
    """
    return _Importer(program, name).run()


class _Importer:
    """Walks an exported program once and builds the graph."""

    def __init__(self, program: torch.export.ExportedProgram, name: str) -> None:
        self.program = program
        self.graph = Graph(name)
        self.values: dict[fx.Node, Any] = {}
        self.held: dict[fx.Node, tuple[str, torch.Tensor]] = {}
        self.renamed: dict[Any, Any] = {}
        self.copies: dict[int, torch.Tensor] = {}

    def run(self) -> Graph:
        for node in self.program.graph.nodes:
            match node.op:
                case "placeholder":
                    self._placeholder(node)
                case "call_function":
                    self._call(node)
                case "get_attr":
                    value = getattr(self.program.graph_module, str(node.target))
                    self.held[node] = (str(node.target), self._copy(value))
                case "output":
                    self._output(node)
        self._erase_dead()
        return self.graph

    # ---- inputs and tensors --------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> None:
        signature = self.program.graph_signature
        target = (
            signature.inputs_to_parameters.get(node.name)
            or signature.inputs_to_buffers.get(node.name)
            or signature.inputs_to_lifted_tensor_constants.get(node.name)
        )
        if target is not None:
            state: Mapping[str, Any] = self.program.state_dict
            value = state[target] if target in state else self.program.constants[target]
            self.held[node] = (target, self._copy(value))
            return
        if not isinstance(node.meta.get("val"), torch.Tensor):
            if node.users:
                raise CompresscError("CC202", "every input must be a tensor", got=str(node.meta.get("val")), where=node.name)
            return
        self._name_dimensions(node)
        op = Op(self.graph.fresh_name(node.name), "input", type=self._type(node))
        self.values[node] = Ref(self.graph.append(op).name)

    def _name_dimensions(self, node: fx.Node) -> None:
        """The open first dimension is `b`; further ones are `s`, `s1`, ..."""
        for dim, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                taken = {str(name) for name in self.renamed.values()}
                wishes = ["b", "s"] if dim == 0 else ["s"]
                wishes += [f"s{i}" for i in range(1, 99)]
                name = next(wish for wish in wishes if wish not in taken)
                self.renamed.setdefault(size.node.expr, symbol(name))

    def _copy(self, value: torch.Tensor) -> torch.Tensor:
        """A private copy; the same tensor gives the same copy, so that ties hold."""
        if id(value) not in self.copies:
            copied = value.detach().clone()
            self.copies[id(value)] = (
                nn.Parameter(copied, requires_grad=copied.is_floating_point())
                if isinstance(value, nn.Parameter)
                else copied
            )
        return self.copies[id(value)]

    # ---- calls ---------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | int) and not isinstance(value, bool):
            self.values[node] = self._size(value)
            return
        kind = "getitem" if not isinstance(node.target, torch._ops.OpOverload) else kind_of(node.target)
        if kind in _DROPPED:
            return
        kind, mutated = self._functional(kind, node)
        bound = self._bind(node)
        if kind in _IDENTITIES and self._is_identity(kind, node):
            self.values[node] = self._operand(node.args[0])
        else:
            self.values[node] = Ref(self._emit(kind, node, bound).name)
        if mutated is not None:
            self.values[mutated] = self.values[node]

    def _functional(self, kind: str, node: fx.Node) -> tuple[str, fx.Node | None]:
        """`aten.relu_` as `aten.relu`, and the node whose value it overwrites."""
        packet, dot, rest = kind.removeprefix("aten.").partition(".")
        if not packet.endswith("_") or packet.endswith("__") or kind in _IDENTITIES:
            return kind, None
        written = node.args[0]
        assert isinstance(written, fx.Node)
        readers = [user for user in written.users if user is not node]
        if written in self.held or any(_is_view(n) for n in [written, *readers]):
            raise CompresscError(
                "CC202",
                "a tensor that is a view of another cannot be written in place",
                got=kind,
                where=str(node.meta.get("stack_trace", node.name)).strip().splitlines()[-1],
                hint="use the out-of-place form",
            )
        return f"aten.{packet[:-1]}{dot}{rest}", written

    def _bind(self, node: fx.Node) -> dict[str, Any]:
        """Arguments by schema name; held tensors as tensors, values as references."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return {}
        arguments = node.target._schema.arguments
        bound = {a.name: a.default_value for a in arguments if a.has_default_value()}
        names = [argument.name for argument in arguments]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        bound |= {key: map_arg(value, self._resolve) for key, value in given.items()}
        first = node.args[0] if node.args else None
        if isinstance(first, fx.Node) and isinstance(first.meta.get("val"), torch.Tensor):
            bound["#rank"] = first.meta["val"].dim()
        return bound

    def _resolve(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node) and arg in self.held:
            return self.held[arg][1]
        return self._operand(arg)

    def _operand(self, arg: Any) -> Any:
        """An argument as the IR holds it; a held tensor becomes an op of its own."""
        if isinstance(arg, fx.Node):
            if arg not in self.values and arg in self.held:
                self.values[arg] = Ref(self._tensor_op(arg).name)
            return self.values[arg]
        if isinstance(arg, torch.SymInt):
            return self._size(arg)
        return arg

    def _tensor_op(self, node: fx.Node) -> Op:
        target, tensor = self.held[node]
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "constant"
        name = self.graph.fresh_name(target)
        op = Op(name, kind, layer=Tensor(tensor), type=_tensor_type(tensor), lineage=(name,))
        return self.graph.append(op)

    def _emit(self, kind: str, node: fx.Node, bound: dict[str, Any]) -> Op:
        raised = raise_call(kind, bound)
        stem = self._stem(node, raised is not None)
        name = self.graph.fresh_name(stem)
        if raised is not None:
            kind, layer, operands = raised
            args = tuple(map_arg(operand, self._operand_of(node)) for operand in operands)
            op = Op(name, kind, args, layer=layer, type=self._type(node), lineage=(name,))
        else:
            args = map_arg(node.args, self._operand)
            kwargs = map_arg(node.kwargs, self._operand)
            if "scale" in bound:
                attention_scale(kind, kwargs, self._type_of_first(node).shape[-1])
            op = Op(name, kind, args, kwargs, type=self._type(node), lineage=(name,))
        return self.graph.append(op)

    def _operand_of(self, node: fx.Node) -> Any:
        """Operands of a raised layer that are held tensors need an op after all."""
        tensors = {id(self.held[n][1]): n for n in node.all_input_nodes if n in self.held}

        def change(value: Any) -> Any:
            return self._operand(tensors[id(value)]) if isinstance(value, torch.Tensor) else value

        return change

    def _type_of_first(self, node: fx.Node) -> TensorType:
        first = node.args[0]
        assert isinstance(first, fx.Node)
        type_ = self._type(first)
        assert isinstance(type_, TensorType)
        return type_

    def _stem(self, node: fx.Node, raised: bool) -> str:
        """Layers are called after the module that holds their weight, calls after where they stand."""
        if raised:
            for source in node.all_input_nodes:
                target = self.held[source][0] if source in self.held else ""
                if target.endswith(("weight", "running_mean")):
                    stem = target.removesuffix("weight").removesuffix("running_mean")
                    return stem.rstrip("._") or "layer"
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, class_ = stack[-1] if stack else ("", "")
        class_name = class_ if isinstance(class_, str) else f"{class_.__module__}.{class_.__name__}"
        short = node.name.rstrip("0123456789").rstrip("_") or node.name
        path = str(path).replace("@", "_")
        if raised and class_name.startswith("torch.nn.modules") and path:
            return path
        return f"{path}.{short}" if path else short

    def _is_identity(self, kind: str, node: fx.Node) -> bool:
        first = node.args[0]
        if not isinstance(first, fx.Node):
            return False
        before, after = first.meta["val"], node.meta["val"]
        if kind == "aten.slice.Tensor":
            start = node.args[2] if len(node.args) > 2 else None
            step = node.args[4] if len(node.args) > 4 else 1
            if start not in (None, 0) or step != 1:
                return False
        return bool(before.dtype == after.dtype and _same_shape(before, after))

    # ---- types and outputs ---------------------------------------------------------------------

    def _size(self, size: Any) -> Any:
        if isinstance(size, int):
            return size
        expr = size.node.expr.xreplace(self.renamed)
        if any(str(s).startswith(("u", "zuf", "zf")) for s in expr.free_symbols):
            raise CompresscError(
                "CC202", "sizes must not depend on tensor values", got=str(expr), hint="nonzero, item and boolean masks do"
            )
        return simplify_size(expr)

    def _type(self, node: fx.Node) -> ValueType:
        value = node.meta["val"]
        if isinstance(value, tuple | list):
            return TupleType(tuple(self._tensor_type(item) for item in value))
        return self._tensor_type(value)

    def _tensor_type(self, value: Any) -> TensorType:
        return TensorType(value.dtype, tuple(self._size(size) for size in value.shape))

    def _output(self, node: fx.Node) -> None:
        flat = [self._operand(arg) for arg in _flat(node.args[0])]
        spec = self.program.call_spec.out_spec
        user_outputs = flat[len(flat) - spec.num_leaves :] if spec is not None else flat
        structured = pytree.tree_unflatten(user_outputs, spec) if spec is not None else user_outputs
        self.graph.outputs = _plain(structured)

    def _erase_dead(self) -> None:
        for op in reversed(list(self.graph)):
            unused = not self.graph.users(op.name) and op.name not in self.graph.output_names
            if unused and op.kind != "input":
                self.graph.erase(op.name)
        self.graph.edits.clear()


def _flat(arg: Any) -> Iterable[Any]:
    return arg if isinstance(arg, tuple | list) else (arg,)


def _plain(value: Any) -> Any:
    """Output structure in tuples and dicts only; a Hugging Face ModelOutput becomes a dict."""
    if isinstance(value, Ref) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    return value


def _tensor_type(tensor: torch.Tensor) -> TensorType:
    return TensorType(tensor.dtype, tuple(tensor.shape))


def _same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    def text(size: Any) -> str:
        return str(size.node.expr) if isinstance(size, torch.SymInt) else str(size)

    return [text(s) for s in a.shape] == [text(s) for s in b.shape]


def _is_view(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return any(r.alias_info is not None and not r.alias_info.is_write for r in target._schema.returns)
