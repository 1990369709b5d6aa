from __future__ import annotations

import pytest

from compressc.errors import CompresscError
from compressc.pipeline import parse_pass, parse_passes
from tests.unit.pipeline.pipeline_passes import Scale

pytestmark = pytest.mark.usefixtures("passes")


def error_of(text: str) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        parse_passes(text)
    assert "\n" not in str(caught.value)
    return caught.value


def test_names_options_and_blanks():
    first, second = parse_passes(" scale( by = 3 ,data=x ), noise ")
    assert (first.by, first.data) == (3.0, "x")
    assert second.name == "noise"


def test_a_list_may_mix_passes_and_texts():
    made = parse_passes([Scale(by=4), "scale(by=5)"])
    assert [p.by for p in made] == [4.0, 5.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('scale(data="a,b")', "a,b"),
        ('scale(data="a)(b")', "a)(b"),
        ("scale(data=f(x,g(y)))", "f(x,g(y))"),
        ("scale(data='word')", "word"),
        ("scale(data=)", ""),
    ],
)
def test_commas_and_brackets_inside_a_value(text, value):
    assert parse_pass(text).data == value


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "scale,,noise", "scale,", "scale(by=1", "scale)", "scale by=1", "1scale"),
        *("scale(2)", "scale(by)", "scale(by=1)(by=2)", "scale(=1)", "scale(by=1,by=2)"),
    ],
)
def test_bad_syntax(text):
    assert error_of(text).code in ("CC103", "CC102")
    assert error_of(text).exit_code == 2


def test_an_option_given_twice_is_not_silently_dropped():
    assert error_of("scale(by=1,by=2)").code == "CC103"


def test_an_unknown_pass_suggests_the_nearest():
    error = error_of("scal")
    assert error.code == "CC101"
    assert error.hint == "did you mean 'scale'?"
    assert error_of("zzzzzz").hint.startswith("there are: ")


def test_an_unknown_option_suggests_the_nearest():
    error = error_of("scale(bye=2)")
    assert error.code == "CC102"
    assert error.hint == "did you mean 'by'?"


@pytest.mark.parametrize(
    ("value", "bound"), [("9", "less than or equal to 8"), ("0", "greater than 0"), ("x", "number")]
)
def test_a_bad_value_names_option_bound_and_value(value, bound):
    error = error_of(f"scale(by={value})")
    assert error.code == "CC102"
    assert "option 'by' of pass 'scale'" in error.wanted
    assert bound in error.wanted
    assert value in error.got


@pytest.mark.parametrize(
    "text",
    [
        "scale",
        "scale(by=3.0)",
        'scale(data="a,b", seed=3)',
        'scale(data="true")',
        'scale(data="5")',
        'scale(data="")',
        "scale(data=word)",
    ],
)
def test_the_text_of_a_pass_reads_back(text):
    made = parse_pass(text)
    assert made.text == text
    assert parse_pass(made.text) == made


def test_an_option_is_written_by_the_name_the_user_gives_it():
    from compressc_prune import Prune

    made = Prune(**{"global": True, "ratio": 0.25})
    assert made.text == "prune(global=True, ratio=0.25)"
