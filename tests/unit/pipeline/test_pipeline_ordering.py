from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context, Pipeline, parse_passes, plan
from compressc.testing import export_graph
from tests.unit.pipeline.pipeline_passes import Scale, data, small_graph

pytestmark = pytest.mark.usefixtures("passes")


def names(text: str) -> list[tuple[str, str | None]]:
    return [(s.pass_.name, s.inserted_for) for s in plan(parse_passes(text), None)]


def error_of(text: str, given=None) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        Pipeline(parse_passes(text), given).run(small_graph())
    return caught.value


@pytest.mark.parametrize("text", ["scale,last,first", "last,noise,first"])
def test_a_wrong_order_is_told_before_any_work_with_its_reason(text):
    error = error_of(text)
    assert error.code == "CC104"
    assert error.wanted == "'first' must come before 'last'"
    assert error.hint == "last eats what first makes"
    assert not Scale.runs


def test_the_right_order_is_fine():
    assert [name for name, _ in names("first,scale,last")] == ["first", "scale", "last"]


def test_a_prelude_is_put_in_where_it_is_missing():
    assert names("noise,last") == [("noise", None), ("scale", "last"), ("last", None)]
    assert names("scale,last") == [("scale", None), ("last", None)]


def test_a_prelude_has_its_place_too():
    assert error_of("last,bad_prelude").code == "CC104"


@pytest.mark.parametrize("text", ["scale,needs_data", "scale,needs_labels"])
def test_missing_data_is_told_before_any_work(text):
    error = error_of(text)
    assert (error.code, Scale.runs) == ("CC105", [])
    assert "--data" in error.hint


def test_missing_labels():
    assert error_of("needs_labels", data(labels=False)).code == "CC105"
    assert Pipeline(parse_passes("needs_labels"), data()).run(small_graph())[0].notes == [
        ("a", "8")
    ]


def test_after_counts_as_before_does():
    class Late(Scale):
        """Wants `noise` in front of it."""

        name = "late"
        after: ClassVar = {"noise": "noise would blur it"}

    noise = parse_passes("noise")
    with pytest.raises(CompresscError, match="'noise' must come before 'late'") as caught:
        plan([Late(), *noise], None)
    assert (caught.value.code, caught.value.hint) == ("CC104", "noise would blur it")
    assert [step.pass_.name for step in plan([*noise, Late()], None)] == ["noise", "late"]


def in_floats(dtype: torch.dtype) -> Graph:
    layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(dtype)
    return export_graph(layer, torch.zeros(3, 4, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pass_for_float32_says_so_before_any_work(dtype):
    ran = []

    class Single(Scale):
        name: ClassVar[str] = "single"
        floats: ClassVar[frozenset[torch.dtype]] = frozenset({torch.float32})

        def run(self, graph: Graph, ctx: Context) -> None:
            ran.append(graph)

    with pytest.raises(CompresscError) as caught:
        Pipeline([Single()]).run(in_floats(dtype))
    error = caught.value
    assert (error.code, error.wanted) == ("CC105", "pass 'single' needs a model in float32")
    assert error.got == str(dtype).removeprefix("torch.")
    assert "--dtype float32" in error.hint
    assert not ran
    Pipeline([Single()]).run(in_floats(torch.float32))
    assert len(ran) == 1
