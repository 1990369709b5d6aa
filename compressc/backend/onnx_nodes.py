"""Putting nodes and stored tensors into an exported ONNX model, where a layer was written."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from compressc.backend.executed import scope_of
from compressc.ir import Graph, lower
from compressc.ir.lowering import module_names

#: Where ONNX Runtime's own operators are.
MICROSOFT = "com.microsoft"


class Nodes:
    """An `onnx_ir.Model` that is written into.

    Attributes:
        ir: the library.
        model: not optimized yet; what is not read any more stays in it.
        graph: what it was exported from.
    """

    def __init__(self, model: Any, graph: Graph) -> None:
        import onnx_ir

        self.ir, self.model, self.graph = onnx_ir, model, graph

    def of_ops(self) -> dict[str, list[Any]]:
        """Op -> the nodes that the exporter wrote for it, in order."""
        names = module_names(lower(self.graph))
        found: dict[str, list[Any]] = defaultdict(list)
        for node in self.model.graph:
            found[names.get(scope_of(node.metadata_props), "")].append(node)
        return found

    def replace(self, old: Any, value: Any) -> None:
        """Let all that read a value read another one of its type."""
        value.shape, value.type = old.shape, old.type
        old.replace_all_uses_with(value, replace_graph_outputs=True)

    def before(
        self, node: Any, kind: str, inputs: list[Any], domain: str = "", **settings: Any
    ) -> Any:
        """A new node's result; the node stands in front of another."""
        return self.several(node, kind, inputs, 1, domain, **settings)[0]

    def several(
        self,
        node: Any,
        kind: str,
        inputs: list[Any],
        count: int,
        domain: str = "",
        **settings: Any,
    ) -> list[Any]:
        """As `before`, of a node with several results."""
        made = self.ir.node(kind, inputs, settings, domain=domain, num_outputs=count)
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        self.model.graph.insert_before(node, made)
        return list(made.outputs)

    def hold(self, name: str, tensor: Any) -> Any:
        """A stored tensor: a torch tensor, or what `onnx_ir.tensor` made."""
        if isinstance(tensor, torch.Tensor):
            from onnx_ir.tensor_adapters import TorchTensor

            tensor = TorchTensor(tensor.detach().contiguous(), name=name)
        kind = self.ir.TensorType(tensor.dtype)
        held = self.ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=kind)
        self.model.graph.register_initializer(held)
        return held
