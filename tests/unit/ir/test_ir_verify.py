"""The verifier catches every mutation that breaks a graph, and is silent on sound ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import (
    Graph,
    Op,
    Ref,
    Tensor,
    TensorType,
    TupleType,
    check_finite,
    retype,
    symbol,
    verify,
)
from tests.random_graphs import random_graphs


def test_no_false_alarm(graph: Graph) -> None:
    verify(graph, like=graph)
    check_finite(graph)


# ---- random mutations of a sound graph ----------------------------------------------------

Draw = Callable[[list[str]], str]


def _drop_edge(graph: Graph, pick: Draw) -> bool:
    edges = list(graph.dag.edges(keys=True))
    if not edges:
        return False
    graph.dag.remove_edge(*edges[int(pick([str(i) for i in range(len(edges))]))])
    return True


def _add_edge(graph: Graph, pick: Draw) -> bool:
    names = [op.name for op in graph]
    graph.dag.add_edge(pick(names), pick(names), key=99)
    return True


def _swap_type(graph: Graph, pick: Draw) -> bool:
    op = graph[pick([op.name for op in graph if op.kind != "input"])]
    assert isinstance(op.type, TensorType)
    change = pick(["dtype", "rank", "size", "tuple", "none"])
    shape = op.type.shape
    op.type = {
        "dtype": TensorType(torch.float64, shape),
        "rank": TensorType(op.type.dtype, (*shape, 1)),
        "size": TensorType(op.type.dtype, (*shape[:-1], shape[-1] + 1)),
        "tuple": TupleType((op.type,)),
        "none": None,
    }[change]
    return True


def _dangle_parameter(graph: Graph, pick: Draw) -> bool:
    value = nn.Parameter(torch.ones(2))
    type_ = TensorType(torch.float32, (2,))
    graph.append(Op(graph.fresh_name("p"), "parameter", layer=Tensor(value), type=type_))
    return True


def _cycle(graph: Graph, pick: Draw) -> bool:
    pairs = [
        (op, user.name)
        for op in graph
        for user in graph.users(op.name)
        if op.kind != "input" and op.args
    ]
    if not pairs:
        return False
    op, user = pairs[int(pick([str(i) for i in range(len(pairs))]))]
    graph.set_inputs(op.name, (Ref(user), *op.args[1:]))
    return True


def _change_attribute(graph: Graph, pick: Draw) -> bool:
    attributes = {"linear": ["in_features", "out_features"], "layer_norm": ["normalized_shape"]}
    layers = [op.name for op in graph if op.kind in attributes]
    if not layers:
        return False
    op = graph[pick(layers)]
    attribute = pick(attributes[op.kind])
    value = getattr(op.layer, attribute)
    setattr(op.layer, attribute, (value[0] + 1,) if isinstance(value, tuple) else value + 1)
    return True


def _resize_weight(graph: Graph, pick: Draw) -> bool:
    layers = [op.name for op in graph if op.kind in ("linear", "layer_norm")]
    if not layers:
        return False
    layer = graph[pick(layers)].layer
    assert layer is not None
    layer.weight = nn.Parameter(torch.ones(len(layer.weight) + 1, *layer.weight.shape[1:]))
    return True


def _drop_layer(graph: Graph, pick: Draw) -> bool:
    layers = [op.name for op in graph if op.layer is not None]
    if not layers:
        return False
    graph[pick(layers)].layer = None
    return True


def _unknown_operand(graph: Graph, pick: Draw) -> bool:
    op = graph[pick([op.name for op in graph if op.kind not in ("input", "parameter")])]
    op.args = (Ref("nowhere"), *op.args[1:])
    return True


def _output_nowhere(graph: Graph, pick: Draw) -> bool:
    graph.outputs = pick(["nothing", "unknown"]) and (Ref("nowhere"),)
    return True


def _no_output(graph: Graph, pick: Draw) -> bool:
    graph.outputs = ()
    return True


def _reverse(graph: Graph, pick: Draw) -> bool:
    """Put the first computed op at the end of the order, behind its readers."""
    op = next((op for op in graph if op.kind != "input" and graph.users(op.name)), None)
    if op is None:
        return False
    before, after, last = graph._previous[op.name], graph._next[op.name], graph._previous[""]
    graph._next[before], graph._previous[after] = after, before
    graph._next[last], graph._next[op.name] = op.name, ""
    graph._previous[op.name], graph._previous[""] = last, op.name
    return True


def _unknown_size(graph: Graph, pick: Draw) -> bool:
    reshapes = [op.name for op in graph if op.kind == "aten.reshape"]
    if not reshapes:
        return False
    op = graph[pick(reshapes)]
    op.args = (op.args[0], (symbol("w9"), *op.args[1][1:]))
    return True


MUTATIONS = [
    _drop_edge, _add_edge, _swap_type, _dangle_parameter, _cycle, _change_attribute, _resize_weight,
    _drop_layer, _unknown_operand, _output_nowhere, _no_output, _reverse, _unknown_size,
]  # fmt: skip


@settings(max_examples=130, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_graphs(), st.sampled_from(MUTATIONS), st.data())
def test_every_mutation_is_caught(
    graph: Graph, mutate: Callable[[Graph, Draw], bool], data: st.DataObject
) -> None:
    if mutate(graph, lambda choices: data.draw(st.sampled_from(choices))):
        with pytest.raises(CompresscError) as caught:
            verify(graph)
        assert caught.value.code in ("CC400", "CC401")


def test_a_mutation_names_the_line_at_fault(vit: Graph) -> None:
    vit["blocks.0.mlp.0"].layer.out_features = 65
    with pytest.raises(CompresscError) as caught:
        verify(vit)
    assert caught.value.where.startswith("%blocks.0.mlp.0 = linear(%blocks.0.norm2)")


@pytest.mark.parametrize(
    ("op", "attribute", "value"),
    [
        ("conv1", "padding_mode", "reflect"),
        ("conv1", "groups", 2),
        ("conv1", "stride", (2, 2)),
        ("conv1", "padding", (0, 0)),
        ("depthwise", "groups", 1),
        ("bn1", "num_features", 4),
        ("bn1", "track_running_stats", False),
        ("stem.2", "inplace", True),
        ("max_pool2d", "kernel_size", (4, 4)),
    ],
)
def test_a_changed_layer_attribute_is_caught(
    digits: Graph, op: str, attribute: str, value: object
) -> None:
    setattr(digits[op].layer, attribute, value)
    with pytest.raises(CompresscError) as caught:
        verify(digits)
    assert caught.value.code in ("CC400", "CC401")


def test_a_missing_bias_is_caught(digits: Graph) -> None:
    layer = digits["bn1"].layer
    assert layer is not None
    layer.weight = None
    with pytest.raises(CompresscError, match="CC400"):
        verify(digits)


def test_the_interface_must_stay(digits: Graph, vit: Graph) -> None:
    teacher = digits.copy()
    digits.outputs = {"logits": digits.outputs}
    with pytest.raises(CompresscError, match="outputs must stay"):
        verify(digits, like=teacher)
    vit.set_layer("head", nn.Linear(32, 11).eval())
    retype(vit)
    with pytest.raises(CompresscError, match="CC401"):
        verify(vit, like=teacher)


def test_the_limits_of_sizes_must_stay(digits: Graph) -> None:
    """A pass must neither forget what sizes the trace holds for nor make a limit up."""
    teacher = digits.copy()
    teacher.limits["b"] = (1, 512)
    digits.limits["b"] = (1, 512)
    verify(digits, like=teacher)
    for limits in ({}, {"b": (1, 511)}, {"b": (2, 512)}):
        digits.limits = dict(limits)
        with pytest.raises(CompresscError, match=r"CC401.*the limits must stay"):
            verify(digits, like=teacher)


def test_ops_descend_from_the_teachers(digits: Graph) -> None:
    teacher = digits.copy()
    digits["head"].lineage = ("drop", "head")
    verify(digits, like=teacher)
    digits["head"].lineage = ("drop", "neck")
    verify(digits)
    with pytest.raises(CompresscError, match="'%head' descends from ops of the teacher") as caught:
        verify(digits, like=teacher)
    assert caught.value.got == "neck"


def test_retype_follows_a_width(vit: Graph) -> None:
    vit.set_layer("blocks.0.mlp.0", nn.Linear(32, 40).eval())
    vit.set_layer("blocks.0.mlp.3", nn.Linear(40, 32).eval())
    with pytest.raises(CompresscError, match="CC401"):
        verify(vit)
    retype(vit)
    verify(vit)
    assert str(vit["blocks.0.mlp.1"].type) == "f32[b,17,40]"


def test_open_dimensions_are_not_mixed_up() -> None:
    graph = Graph()
    for name, dim in (("x", "b"), ("y", "s")):
        graph.append(Op(name, "input", type=TensorType(torch.float32, (symbol(dim), 3))))
    graph.append(Op("z", "aten.add.Tensor", (Ref("x"), Ref("y"))))
    graph.outputs = Ref("z")
    with pytest.raises(CompresscError, match="CC401"):
        retype(graph)


def test_weights_that_are_not_finite_are_named(digits: Graph) -> None:
    weight = digits["head"].layer.weight
    with torch.no_grad():
        weight[0, :2] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(CompresscError) as caught:
        check_finite(digits)
    assert caught.value.code == "CC205"
    assert caught.value.where == "@head.weight"
    assert "2 of 320" in caught.value.got


def test_a_mask_may_be_infinite() -> None:
    graph = Graph()
    graph.append(Op("m", "constant", layer=Tensor(torch.full((2,), float("-inf")))))
    graph.outputs = Ref("m")
    check_finite(graph)


def test_an_operation_that_writes_into_its_operand_is_no_part_of_a_graph(graph: Graph) -> None:
    """Values are what they were computed as: another reader would see the change."""
    x = graph.inputs[0]
    op = Op("written", "aten.relu_", (Ref(x.name),), type=x.type)
    graph.insert_after(x.name, op)
    with pytest.raises(CompresscError) as caught:
        verify(graph)
    assert caught.value.code == "CC400"
    assert caught.value.wanted == "'%written' must not write into its operands"
