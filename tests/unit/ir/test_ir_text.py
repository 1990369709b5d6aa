"""print -> parse -> print is identical, on the zoo and on random graphs."""

from __future__ import annotations

import math
from contextlib import suppress

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
    parse_graph,
    print_graph,
    symbol,
    verify,
)
from compressc.ir.parser import parse_arg
from compressc.ir.printer import arg_text, ranges_text
from tests.random_graphs import random_graphs


def test_the_zoo_reads_back(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text, graph.tensors())
    assert print_graph(again) == text
    assert [op.lineage for op in again] == [op.lineage for op in graph]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graphs_read_back(graph: Graph) -> None:
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text, graph.tensors())
    assert print_graph(again) == text
    verify(again, like=graph)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(),
    st.text(),
    st.sampled_from(
        ["a: b", 'q"uote', "back\\", "# from x", ") : f32[2] @w", "%x", "{[(", "\u2028\n"]
    ),
    st.sampled_from([torch.float32, torch.int64, torch.strided, torch.channels_last]),
    st.sampled_from([torch.device("cpu"), torch.device("meta")]),
    st.sampled_from([symbol("b") * 4, symbol("s") + 1]),
    st.sampled_from([Ref("x"), Ref("a.0.b_1")]),
)
ARGS = st.recursive(LEAVES, lambda a: st.lists(a, max_size=3).map(tuple), max_leaves=8)


def _same(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@settings(deadline=None)
@given(ARGS)
def test_any_argument_reads_back(arg: object) -> None:
    assert _same(parse_arg(arg_text(arg)), arg)


@settings(deadline=None, max_examples=60)
@given(st.lists(LEAVES, max_size=4))
def test_any_argument_survives_in_a_line(args: list[object]) -> None:
    graph = Graph()
    graph.append(Op("x", "input", type=TensorType(torch.float32, (2,))))
    args = [Ref("x") if isinstance(arg, Ref) else arg for arg in args]
    graph.append(
        Op("y", "aten.add.Tensor", (Ref("x"), tuple(args)), {"alpha": args[0] if args else 1},
           type=TensorType(torch.float32, (2,)), lineage=("x", "y"))
    )  # fmt: skip
    graph.outputs = {"out: {": (Ref("y"),)}
    again = parse_graph(print_graph(graph))
    assert print_graph(again) == print_graph(graph)
    assert _same(again["y"].args, graph["y"].args)
    assert again.outputs == graph.outputs


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 40), unique=True))
def test_kept_ranges_read_back(indices: list[int]) -> None:
    graph = Graph()
    graph.append(Op("x", "input", type=TensorType(torch.float32, (2,))))
    graph.append(Op("y", "aten.relu", (Ref("x"),), type=TensorType(torch.float32, (2,))))
    graph["y"].kept = {1: tuple(indices), 3: (5, 4)} if indices else {}
    graph.outputs = Ref("y")
    assert parse_graph(print_graph(graph))["y"].kept == graph["y"].kept


def test_ranges_are_joined() -> None:
    assert ranges_text([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_layer_attributes_print_only_where_they_differ(digits: Graph) -> None:
    text = print_graph(digits)
    assert (
        "%stem.0 = conv2d(%x) {in=1, out=16, kernel=3, padding=1, bias=false} @stem.0.weight"
        in text
    )
    assert "%stem.2 = relu(%stem.1) : f32[b,16,8,8]" in text


def test_tied_weights_print_one_name(tied: Graph) -> None:
    lines = [line for line in print_graph(tied).splitlines() if "@embedding.weight" in line]
    assert len(lines) == 2
    again = parse_graph(print_graph(tied), tied.tensors())
    assert again["head"].layer.weight is again["embedding"].layer.weight


HEAD = "graph g(%x: f32[b,4]) {\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("%y = aten.nothing(%x) : f32[b,4]", "unknown operation"),
        ("%y = aten.save(%x, \"f\") : f32[b,4]", "unknown operation"),
        ("%y = aten.from_file(\"f\") : f32[b,4]", "unknown operation"),
        ("%y = os.system(\"touch canary\") : f32[b,4]", "unknown operation"),
        ("%y = aten.relu(%z) : f32[b,4]", "not there"),
        ("%x = aten.relu(%x) : f32[b,4]", "in use"),
        ("%y = aten.relu(%y) : f32[b,4]", "not there"),
        ("%y = linear(%x) {in=4, out=2} @w : f32[b,2]", "holds 2 tensors"),
        ("%y = linear(%x) {in=4, out=two} @w @b : f32[b,2]", ""),
        ("%y = linear(%x) {in=4, out=2, colour=3} @w @b : f32[b,2]", "no attribute"),
        ("%y = conv2d(%x) {in=4, out=2, kernel=3, groups=0} @w @b : f32[b,2]", "cannot be built"),
        ("%y = embedding(%x) {rows=4, width=2, padding_idx=nan} @w : f32[b]", "cannot be built"),
        ("%y = aten.relu(%x) : f99[b,4]", "a type is written"),
        ("%y = aten.relu(%x) : f32[b,4] # from x kept 0:0-99999999999", "kept indices"),
        ("%y = aten.relu(%x : f32[b,4]", "not an op"),
        ("%y = aten.cat(" + "[" * 2000 + "%x" + "]" * 2000 + ", 1) : f32[b,4]", ""),
        ("width w0 = four", ""),
        ("anything", "not an op"),
    ],
)  # fmt: skip
def test_forged_text_is_refused_with_its_line(line: str, why: str) -> None:
    with pytest.raises(CompresscError) as caught:
        parse_graph(f"{HEAD}  {line}\n  return %y\n}}\n")
    assert caught.value.code == "CC402"
    assert "line 2" in caught.value.where
    assert why in str(caught.value)


def test_text_without_a_return_is_refused() -> None:
    with pytest.raises(CompresscError, match="return"):
        parse_graph(HEAD)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damaged_text_is_refused_or_read(data: st.DataObject) -> None:
    graph = _small_graph()
    text = print_graph(graph)
    position = data.draw(st.integers(0, len(text) - 1))
    junk = data.draw(st.text('%@(){}[]:#=, \nabc019.-"\\', max_size=5))
    width = data.draw(st.integers(0, 6))
    with suppress(CompresscError):  # any other exception fails the test
        parse_graph(text[:position] + junk + text[position + width :], graph.tensors())


def test_long_hostile_lines_are_refused_quickly() -> None:
    import time

    start = time.perf_counter()
    for line in (
        "%y = aten.relu(" + ")" * 20000,
        "%y = a(" + " : " * 20000,
        "%y = a()" + " " * 20000 + "!",
    ):
        with pytest.raises(CompresscError):
            parse_graph(f"{HEAD}  {line}\n  return %y\n}}\n")
    assert time.perf_counter() - start < 5


def _small_graph() -> Graph:
    torch.manual_seed(0)
    graph = Graph("small")
    inner, weight = TensorType(torch.float32, (symbol("b"), 3)), nn.Parameter(torch.ones(3))
    graph.append(Op("x", "input", type=TensorType(torch.float32, (symbol("b"), 4))))
    graph.append(Op("fc", "linear", (Ref("x"),), layer=nn.Linear(4, 3).eval(), type=inner))
    held = TensorType(torch.float32, (3,))
    graph.append(Op("p", "parameter", layer=Tensor(weight), type=held))
    add = graph.append(Op("y", "aten.add.Tensor", (Ref("fc"), Ref("p")), {"alpha": 2}, type=inner))
    add.lineage, add.kept = ("fc", "y"), {1: (0, 2, 3)}
    graph.outputs = {"out": Ref("y")}
    return graph
