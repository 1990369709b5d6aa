"""A TorchScript archive as an exported program: trusted, converted by torch, and compared with it.

The archive is a program: `torch.jit.load` compiles it and runs the `__setstate__` of its classes,
and torch's own reader is written for files one trusts. So it is opened only where the user says so
(docs/decisions/0006-model-files.md).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from compressc.errors import CompresscError, first_line
from compressc.frontend.export import export_module, try_out
from compressc.frontend.inputs.arguments import Arguments
from compressc.frontend.inputs.specs import InputSpec, open_sizes
from compressc.ir import Graph, TensorType, lower
from compressc.ir.types import Size
from compressc.quiet import quiet
from compressc.strangers import reading

_AGAIN = 'from the original module write torch.export.save(torch.export.export(...), "model.pt2")'
_SEED = 0


def read_torchscript(path: Path, *, trust: bool) -> torch.jit.ScriptModule:
    """The module of an archive, in eval mode on the CPU.

    Raises:
        CompresscError: CC201 without `trust`, CC200 where torch cannot read it.
    """
    if not trust:
        raise CompresscError(
            "CC201",
            "a TorchScript archive is a program, parts of which run while it is loaded",
            got="a TorchScript archive",
            where=str(path),
            hint=f"{_AGAIN}, or give --trust-pickle if you made the file",
        )
    with reading("CC200", "the TorchScript archive cannot be loaded", str(path), _AGAIN), quiet():
        script: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
            str(path), map_location="cpu"
        )
        return script.eval()


def by_position(script: torch.jit.ScriptModule, arguments: Arguments) -> tuple[torch.Tensor, ...]:
    """The arguments in the order of `forward`.

    Raises:
        CompresscError: CC204 where they are not all of its arguments, or no tensors.
    """
    wanted = script.forward.schema.arguments[1:]  # type: ignore[attr-defined]
    names = [argument.name for argument in wanted]
    given = {**dict(zip(names, arguments.args, strict=False)), **arguments.kwargs}
    fits = (
        given.keys() == set(names)
        and len(given) == len(arguments.args) + len(arguments.kwargs)
        and all(isinstance(value, torch.Tensor) for value in given.values())
    )
    if not fits:
        raise CompresscError(
            "CC204",
            f"forward takes {', '.join(f'{a.name}: {a.type}' for a in wanted)}",
            got=", ".join(f"{n}: {type(v).__name__}" for n, v in given.items()) or "nothing",
            where="--input",
            hint="an archive is converted with all its arguments, which are tensors",
        )
    return tuple(given[name] for name in names)


def convert(
    script: torch.jit.ScriptModule,
    inputs: tuple[torch.Tensor, ...],
    shapes: Sequence[Sequence[Size]],
    where: str,
) -> torch.export.ExportedProgram:
    """Translate a module; the symbols of `shapes` are the open dimensions.

    Raises:
        CompresscError: CC202 where torch's converter cannot, CC204 where forward rejects the
            inputs.
    """
    with torch.no_grad():
        try_out(script, Arguments(inputs, {}))
    specs = [
        InputSpec("", TensorType(tensor.dtype, tuple(shape)))
        for tensor, shape in zip(inputs, shapes, strict=True)
    ]
    try:
        with quiet(), torch.no_grad():
            return _converted(script, inputs, specs)
    except Exception as error:  # torch's converter fails in many ways on control flow
        raise _no_conversion(_reason(error), where) from error


def _converted(
    script: torch.jit.ScriptModule, inputs: tuple[torch.Tensor, ...], specs: Sequence[InputSpec]
) -> torch.export.ExportedProgram:
    """By torch's converter, but with the open dimensions and the input names that are meant."""
    from torch._export.converter import TS2EPConverter

    class Converter(TS2EPConverter):
        def retrace_as_exported_program(
            self, gm: fx.GraphModule, name_to_constant: dict[str, Any]
        ) -> torch.export.ExportedProgram:
            _rename_inputs(gm, [a.name for a in script.forward.schema.arguments[1:]])  # type: ignore[attr-defined]
            _compute_sizes(gm)
            return export_module(gm, inputs, specs=specs)

    converter = Converter(script, inputs)
    # a trace takes sizes through tensors and back: undone, or they would depend on values; without
    # the example's shapes, or its sizes would become constants
    torch._C._jit_pass_erase_shape_information(converter.ts_graph)
    torch._C._jit_pass_peephole(converter.ts_graph, False)
    torch._C._jit_pass_constant_propagation(converter.ts_graph)
    torch._C._jit_pass_dce(converter.ts_graph)
    program: torch.export.ExportedProgram = converter.convert()
    return program


def _rename_inputs(module: fx.GraphModule, names: Sequence[str]) -> None:
    """Inputs are called as `forward` calls them, not as the trace numbered them."""
    taken = {node.name for node in module.graph.nodes if node.op != "placeholder"}
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, name in zip(places, names, strict=False):
        if name not in taken and name.isidentifier():
            node.name = node.target = name
    module.recompile()


def _compute_sizes(module: fx.GraphModule) -> None:
    """Arithmetic on sizes, which a trace does with tensors, as arithmetic on numbers; no casts."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.prim.unchecked_cast.default:  # an optional input that is given
            node.replace_all_uses_with(node.args[0])
        elif node.target is torch.ops.aten._local_scalar_dense.default:
            with module.graph.inserting_before(node):
                number = _number(module, node.args[0])
            if number is not None:
                node.replace_all_uses_with(number)
    module.graph.eliminate_dead_code()
    module.recompile()


_ARITHMETIC: dict[Any, Callable[[Any, Any], Any]] = {
    torch.ops.aten.add.Tensor: operator.add,
    torch.ops.aten.sub.Tensor: operator.sub,
    torch.ops.aten.mul.Tensor: operator.mul,
    torch.ops.aten.floor_divide.default: operator.floordiv,
}


def _number(module: fx.GraphModule, value: Any) -> Any:
    """The size that a tensor without dimensions holds, as a number; None where it is no size."""
    if not isinstance(value, fx.Node):
        return value if type(value) is int else None
    if value.target is torch.ops.aten.scalar_tensor:
        return value.args[0]
    if value.target is torch.ops.aten._to_copy.default:
        return _number(module, value.args[0])
    if value.op == "get_attr":
        held = getattr(module, str(value.target), None)
        if isinstance(held, torch.Tensor) and held.dim() == 0 and not held.is_floating_point():
            return int(held)
        return None
    function = _ARITHMETIC.get(value.target)
    rest = [argument for argument in (*value.args[2:], *value.kwargs.values()) if argument != 1]
    if function is None or rest:
        return None
    left, right = (_number(module, argument) for argument in value.args[:2])
    if left is None or right is None:
        return None
    return module.graph.call_function(function, (left, right))


def check_same(
    script: torch.jit.ScriptModule,
    graph: Graph,
    inputs: tuple[torch.Tensor, ...],
    where: str,
) -> None:
    """See that the graph computes what the archive does, bit for bit, also at other sizes.

    Raises:
        CompresscError: CC202 where it does not.
    """
    module = lower(graph)
    for sizes in _trials(graph, inputs):
        values = _resized(graph, inputs, sizes)
        at = ", ".join(f"{name} = {size}" for name, size in sizes.items()) or "the example's sizes"
        try:
            with quiet(), torch.no_grad():
                wanted, got = (pytree.tree_leaves(f(*values)) for f in (script, module))
        except Exception as error:  # the archive's own code, at a size it was not traced with
            raise _no_conversion(f"at {at}: {first_line(error)}", where) from error
        if len(wanted) != len(got) or not all(map(_equal, wanted, got)):
            raise _no_conversion(f"other numbers at {at}", where)


def _trials(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[dict[str, int]]:
    """The sizes of the example, and two other ones of every open dimension."""
    found = open_sizes(graph, inputs)
    if not found:
        return [{}]
    changed = (
        {name: graph.within_limits(name, length + change) for name, length in found.items()}
        for change in (-1, 2)
    )
    return [found, *changed]


def _resized(
    graph: Graph, inputs: Sequence[torch.Tensor], sizes: Mapping[str, int]
) -> tuple[torch.Tensor, ...]:
    """Inputs at other sizes, with values of the same inputs."""
    generator = torch.Generator().manual_seed(_SEED)
    values = []
    for op, tensor in zip(graph.inputs, inputs, strict=True):
        value = tensor
        for dim, size in enumerate(graph.type_of(op.name).shape):
            if not isinstance(size, int) and value.shape[dim] != sizes[str(size)]:
                chosen = (sizes[str(size)],)
                index = torch.randint(0, value.shape[dim], chosen, generator=generator)
                value = value.index_select(dim, index)
        values.append(value)
    return tuple(values)


def _equal(wanted: Any, got: Any) -> bool:
    if not isinstance(wanted, torch.Tensor) or not isinstance(got, torch.Tensor):
        return bool(wanted == got)
    if wanted.dtype != got.dtype or wanted.shape != got.shape:
        return False
    return bool(((wanted == got) | (wanted.isnan() & got.isnan())).all())


def _reason(error: BaseException) -> str:
    """The deepest cause: the converter says only at which node it failed."""
    while error.__cause__ is not None and str(error).startswith("TS2EPConverter failed"):
        error = error.__cause__
    return error.got if isinstance(error, CompresscError) else first_line(error)


def _no_conversion(got: str, where: str) -> CompresscError:
    return CompresscError(
        "CC202",
        "the TorchScript module cannot be converted into a graph",
        got=got,
        where=where,
        hint=f"branches, loops and state that torch.jit.script kept cannot; {_AGAIN}",
    )
