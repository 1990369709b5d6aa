"""Editing: edges equal operands, order, names, lineage, counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import Graph, Op, Ref, TensorType, check_structure, run_graph
from compressc.ir.ops import map_arg
from compressc.testing import export_graph
from tests.random_graphs import random_graphs

VECTOR = TensorType(torch.float32, (3,))


def _relu(name: str, source: str, **more: object) -> Op:
    return Op(name, "aten.relu", (Ref(source),), type=VECTOR, **more)  # type: ignore[arg-type]


@pytest.fixture
def chain() -> Graph:
    """x -> a -> b -> c, with c returned."""
    graph = Graph()
    graph.append(Op("x", "input", type=VECTOR))
    for name, source in (("a", "x"), ("b", "a"), ("c", "b")):
        graph.append(_relu(name, source, lineage=(name,)))
    graph.outputs = Ref("c")
    return graph


def edges_equal_operands(graph: Graph) -> bool:
    """The DAG has exactly one edge per operand, keyed by its position."""
    wanted = {(s, op.name, i) for op in graph for i, s in enumerate(op.inputs)}
    return set(graph.dag.edges(keys=True)) == wanted and len(graph) == len(list(graph))


def test_an_op_that_reads_a_value_twice_has_two_edges(chain: Graph) -> None:
    chain.append(Op("square", "aten.mul.Tensor", (Ref("c"), Ref("c")), type=VECTOR))
    assert chain.dag.number_of_edges("c", "square") == 2
    assert [op.name for op in chain.users("c")] == ["square"]
    assert edges_equal_operands(chain)


def test_keyword_and_nested_operands_have_edges(chain: Graph) -> None:
    op = Op("cat", "aten.cat", ((Ref("a"), Ref("b")), 0), {"out": Ref("c")}, type=VECTOR)
    chain.append(op)
    assert op.inputs == ("a", "b", "c")
    assert edges_equal_operands(chain)


def test_insert_after_keeps_order_and_takes_the_anchors_lineage(chain: Graph) -> None:
    inserted = chain.insert_after("a", _relu("new", "a"))
    assert [op.name for op in chain] == ["x", "a", "new", "b", "c"]
    assert inserted.lineage == ("a",)
    assert chain.insert_after("b", _relu("own", "b", lineage=("elsewhere",))).lineage == (
        "elsewhere",
    )
    assert chain.edits["insert"] == 2
    check_structure(chain)


def test_replace_inherits_lineage_and_kept(chain: Graph) -> None:
    chain["b"].kept = {0: (0, 2)}
    chain.insert_after("b", _relu("new", "a", lineage=("extra",)))
    chain.replace("b", "new")
    assert "b" not in chain
    assert chain["new"].lineage == ("extra", "b")  # the last one is the value it stands for
    assert chain["new"].kept == {0: (0, 2)}
    assert chain["c"].inputs == ("new",)
    assert edges_equal_operands(chain)


def test_replacing_the_output_redirects_it(chain: Graph) -> None:
    chain.insert_after("c", _relu("new", "b"))
    chain.replace("c", "new")
    assert chain.outputs == Ref("new")
    assert [op.name for op in chain] == ["x", "a", "b", "new"]


def test_redirect_spares_the_exceptions(chain: Graph) -> None:
    chain.insert_after("a", _relu("wrap", "a"))
    chain.redirect("a", "wrap", but=["wrap"])
    assert chain["wrap"].inputs == ("a",)
    assert chain["b"].inputs == ("wrap",)
    assert edges_equal_operands(chain)


def test_erase_refuses_what_is_read(chain: Graph) -> None:
    for name in ("a", "c"):
        with pytest.raises(CompresscError, match="still read"):
            chain.erase(name)
    chain.outputs = Ref("b")
    chain.erase("c")
    assert [op.name for op in chain] == ["x", "a", "b"]
    assert chain.edits["erase"] == 1


def test_erasing_renumbers_nothing(chain: Graph) -> None:
    chain.append(_relu(chain.fresh_name("c"), "b"))
    assert "c_1" in chain
    chain.outputs = Ref("c_1")
    chain.erase("c")
    assert chain["c_1"].name == "c_1"
    assert chain.fresh_name("c") == "c"


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("a", "a_1"),
        ("new", "new"),
        ("layer 1/x", "layer_1_x"),
        ("", "op"),
        ("..", "op"),
        ("é", "_"),
    ],
)
def test_fresh_names_are_legal_and_free(chain: Graph, stem: str, name: str) -> None:
    assert chain.fresh_name(stem) == name


def test_an_op_with_unknown_operands_leaves_the_graph_as_it_was(chain: Graph) -> None:
    before = str(chain)
    for bad in (_relu("d", "nowhere"), _relu("d", "d"), _relu("a", "x"), _relu("", "x")):
        with pytest.raises(CompresscError, match="CC400"):
            chain.append(bad)
    with pytest.raises(CompresscError, match="CC400"):
        chain.set_inputs("b", (Ref("nowhere"),))
    assert str(chain) == before
    check_structure(chain)


def test_ops_may_be_erased_while_iterating(chain: Graph) -> None:
    chain.outputs = Ref("a")
    for op in reversed(list(chain)):
        if op.name in ("b", "c"):
            chain.erase(op.name)
    assert [op.name for op in chain] == ["x", "a"]


def test_kept_indices_compose(chain: Graph) -> None:
    chain.narrow("a", 0, [1, 3, 5, 7])
    chain.narrow("a", 0, [0, 2])
    assert chain["a"].kept == {0: (1, 5)}


def test_unknown_names_and_tuple_types_are_user_errors(chain: Graph) -> None:
    with pytest.raises(CompresscError, match="no op '%nowhere'"):
        chain["nowhere"]
    chain["a"].type = None
    with pytest.raises(CompresscError, match="a tensor is wanted"):
        chain.type_of("a")


def test_a_copy_shares_no_tensor_and_keeps_ties(graph: Graph) -> None:
    twin = graph.copy()
    assert str(twin) == str(graph)
    assert not twin.edits
    assert not set(map(id, graph.tensors().values())) & set(map(id, twin.tensors().values()))
    assert list(twin.tensors()) == list(graph.tensors())  # a broken tie would add a name
    strides = [t.stride() for t in graph.tensors().values()]
    assert [t.stride() for t in twin.tensors().values()] == strides


def test_editing_a_copy_leaves_the_original(vit: Graph) -> None:
    before, twin = str(vit), vit.copy()
    twin.set_layer("head", nn.Linear(32, 5))
    twin.narrow("head", 1, [0, 1])
    twin.redirect("blocks.0.add_1", "blocks.0.add")
    assert str(vit) == before


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_graphs(), st.data())
def test_random_edits_keep_edges_and_order(graph: Graph, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 6))):
        names = [op.name for op in graph]
        name = data.draw(st.sampled_from(names))
        match data.draw(st.sampled_from(["insert", "replace", "redirect", "erase", "set_inputs"])):
            case "insert":
                graph.insert_after(name, _relu(graph.fresh_name("new"), name))
            case "replace" if graph[name].kind != "input":
                source = graph[name].inputs[:1] or (names[0],)
                new = graph.insert_after(name, _relu(graph.fresh_name("new"), source[0]))
                graph.replace(name, new.name)
            case "redirect":
                new = graph.insert_after(name, _relu(graph.fresh_name("new"), name))
                graph.redirect(name, new.name, but=[new.name])
            case "erase" if not graph.users(name) and name not in graph.output_names:
                graph.erase(name)
            case "set_inputs":
                graph.set_inputs(name, map_arg(graph[name].args, lambda arg: arg))
        assert edges_equal_operands(graph)
        check_structure_allowing_dangling(graph)


def check_structure_allowing_dangling(graph: Graph) -> None:
    """Everything but the rule on unread parameters, which an edit may leave for a moment."""
    unread = [op for op in graph if op.kind == "parameter" and not graph.users(op.name)]
    if unread:
        with pytest.raises(CompresscError, match="nothing reads"):
            check_structure(graph)
    else:
        check_structure(graph)


def test_a_graph_becomes_another_and_keeps_its_count_of_edits():
    torch.manual_seed(0)
    one = export_graph(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.ones(2, 4))
    other = export_graph(nn.Sequential(nn.Linear(4, 5)), torch.ones(2, 4))
    one.set_layer("0", nn.Linear(4, 3))
    text, x = str(other), torch.randn(3, 4)
    (wanted,) = run_graph(other, (x,))
    one.become(other)
    assert str(one) == text
    assert torch.equal(run_graph(one, (x,))[0], wanted)
    assert dict(one.edits) == {"set_layer": 1}
