"""Types and sizes: text round trip, evaluation, and text that is none."""

from __future__ import annotations

import pytest
import sympy
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compressc.errors import CompresscError
from compressc.ir import TensorType, evaluate, parse_type
from compressc.ir.types import DTYPES, parse_size, size_text, symbol
from compressc.spec import split_top_level

NAMES = st.sampled_from(["b", "s", "s1", "w0"])


def _combine(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda p: f"({p[0]}+{p[1]})"),
        pairs.map(lambda p: f"({p[0]}*{p[1]})"),
        pairs.map(lambda p: f"Max({p[0]},{p[1]})"),
        pairs.map(lambda p: f"Min({p[0]},{p[1]})"),
        st.tuples(children, st.integers(1, 9)).map(lambda p: f"({p[0]}//{p[1]})"),
        st.tuples(children, st.integers(2, 9)).map(lambda p: f"Mod({p[0]},{p[1]})"),
    )


SIZES = st.recursive(st.one_of(NAMES, st.integers(0, 99).map(str)), _combine, max_leaves=6)
ENV = {"b": 7, "s": 11, "s1": 3, "w0": 4}


@settings(deadline=None, max_examples=60)
@given(SIZES)
@example("((b+s)*(2*Max(b,s)))")
@example("2*(b+s)*Max(b,s)")
@example("-(b+s)*Max(b,s)")
@example("-(b+s)*2")
@example("(b+s)*Max(b,s)*-3*s1")
def test_a_size_reads_back_and_has_pythons_value(text: str) -> None:
    size = parse_size(text)
    assert parse_size(size_text(size)) == size
    python = {"Max": max, "Min": min, "Mod": lambda a, b: a % b}
    assert evaluate(size, ENV) == eval(text, python, dict(ENV))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(DTYPES)), st.lists(SIZES, max_size=4))
def test_a_type_reads_back(dtype: str, sizes: list[str]) -> None:
    type_ = parse_type(f"{dtype}[{','.join(sizes)}]")
    assert parse_type(str(type_)) == type_
    assert type_.dtype == DTYPES[dtype]
    assert len(type_.shape) == len(sizes)


def test_types_print_as_documented() -> None:
    type_ = TensorType(torch.float32, (symbol("b"), 32, 8, 8))
    assert str(type_) == "f32[b,32,8,8]"
    assert str(TensorType(torch.int64, ())) == "i64[]"
    assert type_.numel({"b": 2}) == 2 * 32 * 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f32",
        "f32[",
        "f33[2]",
        "f32[2]]",
        "f32[b.c]",
        "f32[__import__('os')]",
        "f32[2.5]",
        "f32['a']",
    ],
)
def test_text_that_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(CompresscError) as caught:
        parse_type(text)
    assert caught.value.code == "CC402"


@pytest.mark.parametrize("text", ["9**9**9", "((9**8)**8)**8", "b**b", "2**99", "(" * 5000, "1//0"])
def test_a_size_that_would_eat_memory_is_refused(text: str) -> None:
    with pytest.raises(CompresscError) as caught:
        parse_size(text)
    assert caught.value.code == "CC402"


def test_an_unknown_symbol_has_no_value() -> None:
    with pytest.raises(CompresscError, match="CC400"):
        evaluate(symbol("nowhere"), ENV)


def test_halves_stay_integers() -> None:
    half = sympy.Integer(6) * symbol("b") / 2
    assert evaluate(half, {"b": 5}) == 15


@settings(deadline=None)
@given(st.lists(st.text('ab[](){}"\\,', max_size=6), max_size=4))
def test_splitting_keeps_nested_and_quoted_commas(parts: list[str]) -> None:
    import json

    quoted = [json.dumps(part.replace("\\", "")) for part in parts]
    assert split_top_level(", ".join(quoted)) == quoted
    assert split_top_level("[a, b], {c: [d, e]}, f") == ["[a, b]", "{c: [d, e]}", "f"]
