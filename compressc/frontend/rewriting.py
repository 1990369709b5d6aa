"""A call in a trace as what it computes, traced itself: what `bags` and `complex_writes` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx


def arguments_of(call: fx.Node) -> dict[str, Any]:
    """What a call of an ATen overload was given, by name; defaults are not in it."""
    names = [argument.name for argument in call.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def traced(
    body: Callable[..., Tensor], operands: Sequence[fx.Node], call: fx.Node
) -> fx.GraphModule:
    """What a function makes of operands of those shapes; its calls come from where `call` did."""
    with torch.no_grad():
        module = make_fx(body, tracing_mode="symbolic")(*(node.meta["val"] for node in operands))
    for node in module.graph.nodes:
        node.meta["nn_module_stack"] = call.meta.get("nn_module_stack")
    return module
