"""The shares of the slow tests: each test is in exactly one, and a full time box skips."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

@pytest.mark.parametrize("number", range(40))
def test_one(number):
    pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makepyfile(test_many=TESTS)
    return pytester


def test_shares_are_a_partition_and_come_round(project: pytest.Pytester) -> None:
    seen: list[str] = []
    for share in ("4/2", "1/2"):
        result = project.runpytest_inprocess("--share", share, "-v")
        names = [line.split()[0] for line in result.outlines if "PASSED" in line]
        assert 10 < len(names) < 30
        result.assert_outcomes(passed=len(names), deselected=40 - len(names))
        seen += names
    assert len(seen) == len(set(seen)) == 40


def test_a_full_box_skips_and_counts(project: pytest.Pytester) -> None:
    project.runpytest_inprocess("--box", "-1").assert_outcomes(skipped=40)


def test_no_share(project: pytest.Pytester) -> None:
    assert project.runpytest_inprocess("--share", "1").ret == pytest.ExitCode.USAGE_ERROR
