from __future__ import annotations

import sys

import pytest

from compressc.errors import CompresscError
from compressc.pipeline import load_pass
from compressc.plugins import PASSES, distribution, find

OURS = "tests.unit.pipeline.pipeline_passes"


def error_of(name: str) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        load_pass(name)
    assert caught.value.exit_code == 2
    return caught.value


def test_our_own_passes_come_through_entry_points():
    assert {"simplify", "student", "prune", "lowrank", "distill", "quant"} <= set(find(PASSES))
    assert load_pass("prune").name == "prune"
    assert distribution(PASSES, "prune").startswith("compressc ")


def test_nothing_is_imported_to_list_plugins(installed):
    installed(("ghost", "no_such_module_at_all:Ghost", "haunted"))
    assert list(find(PASSES)) == ["ghost"]


def test_two_distributions_with_one_name(installed):
    installed(("scale", f"{OURS}:Scale", "one"), ("scale", f"{OURS}:Noise", "two"))
    error = error_of("scale")
    assert error.code == "CC106"
    assert error.got == "one 1.0 and two 1.0"


def test_one_distribution_seen_twice_is_no_duplicate(installed):
    installed(*[("scale", f"{OURS}:Scale", "one")] * 2)
    assert load_pass("scale").name == "scale"


def test_a_failing_import(installed, tmp_path, monkeypatch):
    (tmp_path / "haunted_plugin.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    installed(("ghost", "haunted_plugin:Ghost", "haunted"))
    error = error_of("ghost")
    assert error.code == "CC106"
    assert "haunted 1.0" in error.wanted
    assert error.got == "ZeroDivisionError: division by zero"
    sys.modules.pop("haunted_plugin", None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("builtins:dict", "must be a subclass of compressc.Pass"),
        (f"{OURS}:small_graph", "must be a subclass of compressc.Pass"),
        (f"{OURS}:Noise", "must have the name of its entry point, 'ghost'"),
        ("compressc.pipeline:Pass", "must define run()"),
    ],
)
def test_a_wrong_type_or_name(installed, value, text):
    installed(("ghost", value, "haunted"))
    error = error_of("ghost")
    assert error.code == "CC106"
    assert text in error.wanted
    assert error.where == "haunted 1.0"


def test_an_attribute_that_is_not_there(installed):
    installed(("ghost", f"{OURS}:Ghost", "haunted"))
    assert "haunted 1.0" in error_of("ghost").wanted


def test_an_unknown_name(installed):
    installed(("scale", f"{OURS}:Scale", "one"))
    assert error_of("scales").hint == "did you mean 'scale'?"
