from __future__ import annotations

import pytest

from tests.unit.pipeline.pipeline_passes import ALL, Scale

MODULE = "tests.unit.pipeline.pipeline_passes"


@pytest.fixture
def passes(installed):
    """The passes of `pipeline_passes` and no others."""
    installed(*((cls.name, f"{MODULE}:{cls.__name__}", "ours") for cls in ALL))
    Scale.runs.clear()
