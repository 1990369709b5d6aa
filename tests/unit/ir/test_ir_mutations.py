"""Thousands of random mutations: each is caught, or leaves a graph whose text says all of it.

A verifier of one graph cannot know which constant was meant. So what passes `verify` has to be a
graph that prints, reads back as the same, runs at several batch sizes with the results its types
promise, computes bit for bit what its text computes, and has another hash if it computes anything
else than before.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import ir_mutations
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from compressc.analysis import symbolize_widths
from compressc.errors import CompresscError
from compressc.frontend import export_module, import_program
from compressc.ir import Graph, TensorType, evaluate, graph_hash, lower, parse_graph, verify
from tests.models import ZOO
from tests.random_graphs import random_graphs

QUICK = ["digits_cnn", "vit", "tied_weights", "two_inputs", "squeeze_excite", "rms_gated"]
ALL = sorted(ZOO)
BATCHES = (3, 5)


@lru_cache
def _network(name: str) -> Graph:
    module, example = ZOO[name]()
    graph = import_program(export_module(module, example), name)
    symbolize_widths(graph)
    verify(graph, like=graph)
    return graph


def _inputs(graph: Graph, batch: int) -> tuple[torch.Tensor, ...]:
    """The same inputs for the same types; indices stay below 2."""
    made = []
    for i, op in enumerate(graph.inputs):
        type_ = graph.type_of(op.name)
        generator = torch.Generator().manual_seed(i)
        shape = [evaluate(size, _Sizes(graph, batch)) for size in type_.shape]
        if type_.dtype.is_floating_point or type_.dtype.is_complex:
            made.append(torch.randn(shape, generator=generator).to(type_.dtype))
        else:
            made.append(torch.randint(0, 2, shape, generator=generator).to(type_.dtype))
    return tuple(made)


class _Sizes(dict[str, int]):
    """Every open dimension at one size, within its limits."""

    def __init__(self, graph: Graph, batch: int) -> None:
        super().__init__(graph.widths)
        self.limits, self.batch = graph.limits, batch

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> int:
        least, most = self.limits.get(name, (1, None))
        return min(max(self.batch, least), most or self.batch)


def _run(graph: Graph, batch: int) -> list[Any]:
    """Every output; types are checked on the way."""
    torch.manual_seed(0)
    named = [op.name for op in graph if isinstance(op.type, TensorType) and op.kind != "input"]
    with torch.no_grad():
        result, values = lower(graph.copy(), also=named)(*_inputs(graph, batch))
    for name, value in zip(named, values, strict=True):
        type_ = graph.type_of(name)
        shape = [evaluate(size, _Sizes(graph, batch)) for size in type_.shape]
        assert [*value.shape] == shape, name
        assert value.dtype == type_.dtype, name
    return tree_leaves(result)


def _equal(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(map(_equal_values, left, right))


def _equal_values(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return repr(a) == repr(b)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _trained(graph: Graph) -> list[str]:
    return sorted(n for n, t in graph.tensors().items() if isinstance(t, torch.nn.Parameter))


def judge(original: Graph, mutated: Graph) -> str:
    """`caught` or `sound`; anything else fails the test."""
    try:
        verify(mutated)
    except CompresscError as error:
        return "caught" if error.code in ("CC400", "CC401") else f"caught as {error.code}"
    text = str(mutated)
    verify(mutated)
    again = parse_graph(text, mutated.tensors())
    assert str(again) == text
    assert _trained(again) == _trained(mutated)
    verify(again)
    same_hash = graph_hash(mutated) == graph_hash(original)
    for batch in BATCHES:
        result = _run(mutated, batch)
        assert _equal(result, _run(again, batch)), "the text computes something else"
        if same_hash:
            assert _equal(result, _run(original, batch)), "another meaning with an equal hash"
    return "sound"


def _mutate(original: Graph, name: str, seed: int, counts: Counter[str]) -> None:
    mutated = original.copy()
    if not ir_mutations.apply(name, mutated, seed):
        counts["no place"] += 1
        return
    counts[judge(original, mutated)] += 1


COUNTS: Counter[str] = Counter()
COMMON: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=900, **COMMON)
@given(
    st.sampled_from(QUICK), st.sampled_from(sorted(ir_mutations.MUTATIONS)), st.integers(0, 2**32)
)
def test_mutations_of_networks(network: str, name: str, seed: int) -> None:
    COUNTS["networks"] += 1
    _mutate(_network(network), name, seed, COUNTS)


@settings(max_examples=60, **COMMON)
@given(random_graphs(), st.integers(0, 2**32))
def test_mutations_of_random_graphs(graph: Graph, seed: int) -> None:
    COUNTS["random graphs"] += 1
    verify(graph, like=graph)
    for name in ir_mutations.MUTATIONS:
        _mutate(graph, name, seed, COUNTS)


def test_enough_mutations_were_judged() -> None:
    """The count that the two tests above make together."""
    if COUNTS["networks"] * COUNTS["random graphs"] == 0:
        pytest.skip("counts what the two tests above did")
    del COUNTS["networks"], COUNTS["random graphs"]
    assert set(COUNTS) <= {"caught", "sound", "no place"}, COUNTS
    assert COUNTS["caught"] + COUNTS["sound"] >= 2000, COUNTS
    assert COUNTS["caught"] > COUNTS["sound"] > 100, COUNTS


@pytest.mark.slow
@settings(max_examples=6000, **COMMON)
@given(st.sampled_from(ALL), st.sampled_from(sorted(ir_mutations.MUTATIONS)), st.integers(0, 2**32))
def test_many_mutations_of_every_network(network: str, name: str, seed: int) -> None:
    counts: Counter[str] = Counter()
    _mutate(_network(network), name, seed, counts)
    assert set(counts) <= {"caught", "sound", "no place"}, counts
