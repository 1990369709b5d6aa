"""Files of every format, made once from small networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressc.frontend import export_module
from tests.models import ZOO, small

torch.set_num_threads(1)  # threads that wait for each other cost more than these networks


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists after the test only if something ran."""
    return tmp_path / "canary"


@pytest.fixture(scope="session")
def program_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported program under a name that says nothing about its format."""
    path = tmp_path_factory.mktemp("program") / "model.pt"
    with path.open("wb") as file:
        torch.export.save(export_module(small(), (torch.randn(4, 4),)), file)
    return path


@pytest.fixture(scope="session")
def zoo_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported programs of networks with ties, several inputs and rewritten writes."""
    folder = tmp_path_factory.mktemp("zoo")
    files = {}
    for name in ("tied_weights", "two_inputs", "many_inputs", "plain_matrices", "in_place"):
        module, example = ZOO[name]()
        files[name] = folder / f"{name}.pt2"
        torch.export.save(export_module(module, example), files[name])
    return files
