"""Peak activation memory: by hand on small graphs, and against real storages on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from compressc.analysis.cost import formula_text
from compressc.analysis.liveness import peak_formula, peak_memory
from compressc.errors import CompresscError
from compressc.ir import Graph, evaluate, lower, parse_graph, print_graph
from compressc.testing import export_graph
from tests.unit.analysis.analysis_nets import NETS, baked, net


def graph_of(*lines: str, inputs: str = "%x: f32[b,4]", returns: str = "%z") -> Graph:
    return parse_graph("\n".join([f"graph g({inputs}) {{", *lines, f"return {returns}", "}"]))


def test_a_chain_holds_input_and_two_values():
    """f32[2, 4] is 32 bytes: input, a and b; then input, b and z."""
    graph = graph_of(
        "%a = aten.relu(%x) : f32[b,4]",
        "%b = aten.relu(%a) : f32[b,4]",
        "%z = aten.relu(%b) : f32[b,4]",
    )
    peak = peak_memory(graph, b=2)
    assert (peak.bytes, peak.op) == (3 * 32, "b")
    assert peak.alive == (("a", 32), ("b", 32), ("x", 32))
    assert formula_text(peak_formula(graph)) == "48*b"


def test_a_residual_stays_until_it_is_added():
    graph = graph_of(
        "%a = aten.relu(%x) : f32[b,4]",
        "%wide = aten.cat([%a, %a, %a], 1) : f32[b,12]",
        "%sum = aten.sum.dim_IntList(%wide, [1], true) : f32[b,1]",
        "%z = aten.add.Tensor(%a, %sum) : f32[b,4]",
    )
    peak = peak_memory(graph)
    assert (peak.bytes, peak.op) == (16 + 16 + 48 + 4, "sum")
    assert peak.alive[0] == ("wide", 48)


def test_views_share_and_keep_their_base():
    """A transpose costs nothing; reshaping it copies; the base lives as long as its view."""
    shared = graph_of(
        "%a = aten.relu(%x) : f32[b,4]",
        "%t = aten.transpose.int(%a, 0, 1) : f32[4,b]",
        "%s = aten.slice.Tensor(%t, 0, 0, 1) : f32[1,b]",
        "%z = aten.relu(%s) : f32[1,b]",
    )
    assert peak_memory(shared, b=8).bytes == 128 + 128 + 32
    copied = graph_of(
        "%a = aten.relu(%x) : f32[b,4]",
        "%t = aten.transpose.int(%a, 0, 1) : f32[4,b]",
        "%z = aten.reshape(%t, [4*b]) : f32[4*b]",
    )
    assert peak_memory(copied, b=8).bytes == 3 * 128
    assert formula_text(peak_formula(copied)) == "48*b"
    assert peak_memory(copied, b=1).bytes == 2 * 16  # here the reshape need not copy


def test_inputs_and_outputs_stay():
    graph = graph_of(
        "%a = aten.relu(%x) : f32[b,4]",
        "%b = aten.relu(%y) : f32[b,4]",
        "%c = aten.relu(%b) : f32[b,4]",
        "%z = aten.relu(%c) : f32[b,4]",
        inputs="%x: f32[b,4], %y: f32[b,4]",
        returns="[%a, %z]",
    )
    assert peak_memory(graph).bytes == 5 * 16  # both inputs, a, b and c


def test_weights_and_their_views_are_no_activations():
    graph = graph_of(
        "%w = parameter() @w.value : f32[1,4]",
        "%e = aten.expand(%w, [b, 4]) : f32[b,4]",
        "%z = aten.add.Tensor(%x, %e) : f32[b,4]",
    )
    assert peak_memory(graph, b=5).bytes == 2 * 80


def test_the_peak_may_depend_on_the_sizes():
    """Scores are s * s, the rest is s * 64: which is larger depends on s."""
    graph = graph_of(
        "%t = aten.transpose.int(%x, 1, 2) : f32[b,16,s]",
        "%a = aten.matmul(%x, %t) : f32[b,s,s]",
        "%m = aten.sum(%a) : f32[]",
        "%w = aten.cat([%x, %x, %x, %x], 2) : f32[b,s,64]",
        "%z = aten.mul.Tensor(%w, %m) : f32[b,s,64]",
        inputs="%x: f32[b,s,16]",
    )
    formula = peak_formula(graph)
    assert str(formula).startswith("Max(")
    assert formula_text(formula).startswith("max(")
    for s in (4, 32, 400):
        x, scores, wide = 4 * 2 * 16 * s, 4 * 2 * s * s, 4 * 2 * 64 * s
        want = max(x + scores + 4, x + 2 * wide + 4)  # 4 bytes are the sum
        assert peak_memory(graph, b=2, s=s).bytes == want


def test_text_without_weights_and_sizes_that_do_not_fit():
    graph = baked("vit")
    text_only = parse_graph(print_graph(graph))
    assert peak_memory(text_only, b=3) == peak_memory(graph, b=3)
    pooled = export_graph(nn.Sequential(nn.Conv1d(1, 2, 3)), torch.randn(3, 1, 9))
    assert peak_memory(pooled, b=2).bytes == 2 * 36 + 2 * 56
    short = graph_of("%z = aten.unfold(%x, 1, 3, 1) : f32[b,s-2,3]", inputs="%x: f32[b,s]")
    with pytest.raises(CompresscError, match="CC204"):
        peak_memory(short, b=1, s=2)


def real_peak(graph: Graph, example: tuple[torch.Tensor, ...]) -> int:
    """Most bytes of living storages, seen by weak references while the graph runs on the CPU."""
    module = lower(graph)
    last: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        last.update(dict.fromkeys(node.all_input_nodes, node))
    held = {t.untyped_storage()._cdata for t in [*module.parameters(), *module.buffers()]}
    seen: dict[int, tuple[StorageWeakRef, int]] = {}
    values: dict[fx.Node, Any] = {}
    feed = iter(example)
    most = 0

    def note(value: Any) -> None:
        for tensor in tree_leaves(value):
            storage = tensor.untyped_storage()
            if storage._cdata not in held:
                seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    note(example)
    for node in module.graph.nodes:
        if node.op == "output":
            break
        values[node] = _run(module, node, values, feed)
        if not isinstance(values[node], int):
            note(values[node])
        most = max(most, sum(size for ref, size in seen.values() if not ref.expired()))
        for source in (*node.all_input_nodes, node):
            if last.get(source, node) is node and source.op != "placeholder":
                values.pop(source)
    return most


def _run(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], feed: Any) -> Any:
    if node.op == "placeholder":
        return next(feed)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "get_attr":
        return (
            module.get_parameter(node.target) if "." not in node.target else _tensor(module, node)
        )
    with torch.no_grad():
        if node.op == "call_module":
            return module.get_submodule(node.target)(*args, **kwargs)
        return node.target(*args, **kwargs)


def _tensor(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(owner), name)


@pytest.mark.parametrize("name", NETS)
def test_real_storages_agree(name):
    """Equal, byte for byte, at the traced batch size and at another."""
    graph = baked(name)
    _, example = net(name)
    for batch in (len(example[0]), 3):
        inputs = tuple(value[:1].expand(batch, *value.shape[1:]).clone() for value in example)
        sizes = {"b": batch}
        for op, value in zip(graph.inputs, inputs, strict=True):
            pairs = zip(graph.type_of(op.name).shape, value.shape, strict=True)
            sizes |= {str(size): real for size, real in pairs if not isinstance(size, int)}
        assert peak_memory(graph, **sizes).bytes == real_peak(graph, inputs)
        formula = peak_formula(graph)
        if formula is not None:
            assert evaluate(formula, sizes) == real_peak(graph, inputs)
