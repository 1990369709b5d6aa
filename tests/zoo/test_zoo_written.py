"""Hand-written architectures: raised, written, read elsewhere, trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.checks import Stranger, check, documented_rows
from tests.zoo.written import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_written_model(name: str, tmp_path: Path, stranger: Stranger) -> None:
    row = check(MODELS[name](), tmp_path, stranger)
    assert not row.faults
    assert str(row) in documented_rows(), "docs/zoo.md is not of this run: make zoo"
