"""Two thin linear layers in a row run as one call where PyTorch itself is the runtime."""

from __future__ import annotations

from torch import fx, nn


def fuse_factored(module: fx.GraphModule) -> fx.GraphModule:
    """Let `compressc.kernels.lowrank_linear` multiply every factored pair of a lowered graph.

    A pair is a linear layer without bias whose result, narrower than what goes in and what comes
    out, is read by one other linear layer alone. The layers stay where they are, so parameters keep
    their names; what training, `torch.compile` and `torch.export` see is two `F.linear`, as before.
    Hooks that are put on the two layers later are not called.

    Args:
        module: what `lower` made; changed in place.
    """
    for second in list(module.graph.nodes):
        first = _factor_before(module, second)
        if first is not None:
            _fuse(module, first, second)
    module.graph.lint()
    module.recompile()
    return module


def _factor_before(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    outer = _plain_linear(module, node)
    before = node.args[0] if outer is not None else None
    inner = _plain_linear(module, before)
    if outer is None or inner is None or not isinstance(before, fx.Node):
        return None
    thin = inner.out_features < min(inner.in_features, outer.out_features)
    return before if thin and inner.bias is None and list(before.users) == [node] else None


def _plain_linear(module: fx.GraphModule, node: object) -> nn.Linear | None:
    """The linear layer that a node calls; None for a subclass or hooks, which may do anything."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    layer = module.get_submodule(str(node.target))
    plain = type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks
    return layer if plain and isinstance(layer, nn.Linear) else None


def _fuse(module: fx.GraphModule, first: fx.Node, second: fx.Node) -> None:
    from compressc.kernels import lowrank_linear

    graph, bias = module.graph, module.get_submodule(str(second.target)).bias is not None
    with graph.inserting_before(second):
        v, u = (graph.get_attr(f"{node.target}.weight") for node in (first, second))
        held = (v, u, graph.get_attr(f"{second.target}.bias")) if bias else (v, u)
        fused = graph.call_function(lowrank_linear, (first.args[0], *held))
    fused.meta.update(second.meta)
    second.replace_all_uses_with(fused)
    graph.erase_node(second)
    graph.erase_node(first)
