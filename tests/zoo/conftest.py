"""One stranger process per test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.zoo.checks import Stranger


@pytest.fixture(scope="session")
def stranger() -> Iterator[Stranger]:
    with Stranger() as process:
        yield process
