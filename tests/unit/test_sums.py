"""Sums of plugins in text: `ce + 2*kd(T=4)`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressc.distillation import parse_loss
from compressc.errors import CompresscError
from compressc.spec import sum_text


def test_weights_and_options_are_read():
    parts = parse_loss("ce + 2*kd(T=3) +.5 * dkd( beta=1, T = 2 )")
    assert [(part.weight, part.of.name) for part in parts] == [(1, "ce"), (2, "kd"), (0.5, "dkd")]
    assert (parts[1].of.T, parts[2].of.beta) == (3.0, 1.0)
    assert sum_text(parts) == "ce + 2*kd(T=3.0) + 0.5*dkd(T=2.0, beta=1.0)"
    assert sum_text(parse_loss("kd")) == "kd"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(1e-12, 1e9),
            st.sampled_from(["ce", "kd", "hint", "dkd"]),
            st.floats(1e-3, 1e3) | st.none(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_reads_back(parts):
    written = [
        f"{weight!r}*{name}" + (f"(T={t!r})" if t is not None and name.endswith("kd") else "")
        for weight, name, t in parts
        if "e+" not in repr(weight)
    ]
    read = parse_loss(" + ".join(written or ["ce"]))
    assert parse_loss(sum_text(read)) == read


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "CC103", "part 1 of ''"),
        ("ce +", "CC103", r"part 2 of 'ce \+'"),
        ("ce kd", "CC103", "ce kd"),
        ("ce + 2*", "CC103", "part 2"),
        ("2*3*kd", "CC103", "part 1"),
        ("x*kd", "CC103", r"a weight is a number above 0"),
        ("0*kd", "CC103", r"above 0.*got 0"),
        ("-1*kd", "CC103", "above 0"),
        ("nan*kd", "CC103", "above 0"),
        ("inf*kd", "CC103", "above 0"),
        ("ce + kdd", "CC107", "did you mean 'kd'"),
        ("kd(T=0)", "CC102", "option 'T' of objective 'kd'"),
        ("kd(t=1)", "CC102", "no option 't'"),
        ("kd(T=4", "CC103", "written name or name"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, code, said):
    with pytest.raises(CompresscError, match=rf"{code}.*{said}"):
        parse_loss(text)
