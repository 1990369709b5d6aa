"""Random small graphs for property tests: layers and ATen calls over vectors [b, n]."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from compressc.ir import Graph, Op, Ref, Tensor, TensorType, symbol

_UNARY = ("relu", "gelu", "silu", "tanh", "sigmoid", "mish", "softplus")


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """A well-typed graph of 1 to 8 ops with one or two inputs; some weights are tied."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    graph = Graph(draw(st.sampled_from(["g", "net_1", "a.b"])))
    for i in range(draw(st.integers(1, 2))):
        width = draw(st.integers(1, 6))
        graph.append(Op(f"x{i}", "input", type=TensorType(torch.float32, (symbol("b"), width))))
    for _ in range(draw(st.integers(1, 8))):
        _add_op(draw, graph)
    sinks = [op.name for op in graph if not graph.users(op.name) and op.kind != "input"]
    graph.outputs = Ref(sinks[0]) if len(sinks) == 1 else {name: Ref(name) for name in sinks}
    graph.edits.clear()
    return graph


def _add_op(draw: st.DrawFn, graph: Graph) -> None:
    values = [op.name for op in graph if op.kind not in ("parameter", "constant")]
    source = draw(st.sampled_from(values))
    width = int(graph.type_of(source).shape[1])
    name = graph.fresh_name(draw(st.sampled_from(["fc", "block.0", "act", "0"])))
    kind = draw(
        st.sampled_from(["linear", "tied", "norm", "unary", "add", "cat", "reshape", "bias"])
    )
    args: tuple[object, ...] = (Ref(source),)
    layer: nn.Module | None = None
    kwargs: dict[str, object] = {}
    out = width
    match kind:
        case "linear":
            out = draw(st.integers(1, 6))
            kind, layer = "linear", nn.Linear(width, out, draw(st.booleans()))
        case "tied":
            kind, layer = "linear", nn.Linear(width, width)
            for op in graph:
                if op.kind == "linear" and op.layer.weight.shape == (width, width):
                    layer.weight = op.layer.weight
        case "norm":
            kind, layer = "layer_norm", nn.LayerNorm(width, eps=draw(st.sampled_from([1e-5, 1e-3])))
        case "unary":
            kind = draw(st.sampled_from(_UNARY))
            layer = nn.GELU("tanh") if kind == "gelu" else None
            kind, layer = (kind, layer) if layer else (f"aten.{kind}", None)
        case "add":
            kind, args, kwargs = "aten.add.Tensor", (Ref(source), Ref(source)), {"alpha": 0.5}
        case "cat":
            other = draw(st.sampled_from(values))
            kind, args = "aten.cat", ((Ref(source), Ref(other)), 1)
            out = width + int(graph.type_of(other).shape[1])
        case "reshape":
            kind, args = "aten.reshape", (Ref(source), (symbol("b"), width))
        case "bias":
            held = graph.fresh_name("p")
            value = nn.Parameter(torch.randn(width))
            type_ = TensorType(torch.float32, (width,))
            graph.append(Op(held, "parameter", layer=Tensor(value), type=type_))
            kind, args = "aten.mul.Tensor", (Ref(source), Ref(held))
    type_ = TensorType(torch.float32, (symbol("b"), out))
    layer = layer.eval() if layer else None
    graph.append(Op(name, kind, args, kwargs, layer, type_, lineage=(source, name)))
