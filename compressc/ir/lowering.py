"""Graph -> `torch.fx.GraphModule`: how a graph runs, trains and is exported.

The module shares the graph's layers, so training it trains the graph. Widths become plain ints;
open dimensions are read off the inputs at run time, and so is the device of what ops make anew: a
graph says the one it was traced on, and a module runs where it is moved to.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn

from compressc.ir.graph import Graph, dimension_symbols
from compressc.ir.ops import Arg, Op, Ref, map_arg, overload
from compressc.ir.types import fold_size


def lower(graph: Graph, *, also: Iterable[str] = ()) -> fx.GraphModule:
    """A module that computes the graph, in eval mode.

    Args:
        graph: a well-formed graph.
        also: names of values to return too; the module then returns `(outputs, [values])`.
    """
    return _Lowering(graph).build(tuple(also))


class _Lowering:
    """One graph on its way to fx; holds the node of each value and each size."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.root = nn.Module()
        self.fx = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        self.sources = dimension_symbols(graph)
        self.dimensions: dict[str, fx.Node] = {}
        self.modules: dict[str, str] = {}
        self.here: fx.Node | None = None

    def build(self, also: tuple[str, ...]) -> fx.GraphModule:
        for op in self.graph:
            if op.kind == "input":
                self.nodes[op.name] = self.fx.placeholder(_identifier(op.name))
        for op in self.graph:
            if op.kind != "input":
                node = self._emit(op)
                node.meta["ir_op"] = op.name
                self.nodes[op.name] = node
        outputs = self._arg(self.graph.outputs)
        self.fx.output((outputs, [self.nodes[name] for name in also]) if also else outputs)
        self.fx.lint()
        module = fx.GraphModule(self.root, self.fx, _identifier(self.graph.name))
        return module.eval()

    def _emit(self, op: Op) -> fx.Node:
        if op.layer is None:
            kwargs = {key: self._arg(value) for key, value in op.kwargs.items()}
            return self.fx.call_function(overload(op.kind), self._arg(op.args), kwargs)
        target = self._submodule(op)
        if op.role == "tensor":
            return self.fx.get_attr(f"{target}.value")
        return self.fx.call_module(target, self._arg(op.args))

    def _submodule(self, op: Op) -> str:
        """Register the layer under a flat name: `a` and `a.b` may both be ops."""
        stem = _identifier(op.name)
        target, number = stem, 0
        while target in self.root._modules:
            number += 1
            target = f"{stem}_{number}"
        self.root.add_module(target, op.layer)
        return target

    def _arg(self, arg: Arg) -> Any:
        return map_arg(arg, self._leaf)

    def _leaf(self, arg: Arg) -> Any:
        if isinstance(arg, Ref):
            return self.nodes[arg.name]
        if hasattr(arg, "free_symbols"):
            return fold_size(arg, self._symbol, self._arithmetic())
        if isinstance(arg, torch.device) and self.graph.inputs:
            return self._device()
        return arg

    def _device(self) -> fx.Node:
        """Where the first input is."""
        if self.here is None:
            first = self.nodes[self.graph.inputs[0].name]
            self.here = self.fx.call_function(getattr, (first, "device"))
        return self.here

    def _symbol(self, name: str) -> fx.Node | int:
        if name in self.graph.widths:
            return self.graph.widths[name]
        if name not in self.dimensions:
            source, dim = self.sources[name]
            self.dimensions[name] = self.fx.call_function(
                torch.ops.aten.sym_size.int, (self.nodes[source], dim)
            )
        return self.dimensions[name]

    def _arithmetic(self) -> dict[str, Callable[[Any, Any], Any]]:
        operations: dict[str, Callable[..., Any]] = {
            "add": operator.add,
            "mul": operator.mul,
            "floordiv": operator.floordiv,
            "mod": operator.mod,
            "max": torch.sym_max,
            "min": torch.sym_min,
        }

        def node_or_value(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
            def apply(a: Any, b: Any) -> Any:
                if isinstance(a, fx.Node) or isinstance(b, fx.Node):
                    return self.fx.call_function(function, (a, b))
                return function(a, b)

            return apply

        return {name: node_or_value(function) for name, function in operations.items()}


def _identifier(name: str) -> str:
    clean = name.replace(".", "_")
    return f"_{clean}" if clean[:1].isdigit() else clean


def module_names(module: fx.GraphModule) -> dict[str, str]:
    """Submodule target of a lowered module -> name of the op it came from."""
    return {
        str(node.target).removesuffix(".value"): node.meta["ir_op"]
        for node in module.graph.nodes
        if node.op in ("call_module", "get_attr") and "ir_op" in node.meta
    }
