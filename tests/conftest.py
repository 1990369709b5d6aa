"""What every test shares: one teacher for a session, and a cache that is the session's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see compressc.cli
ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update`: write the `.ir` files of tests/passes anew."""
    parser.addoption("--update", action="store_true", help="write .ir files anew, then compare")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache."""
    os.environ["COMPRESSC_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits teacher: `model.pt` of `make demo`, trained here where it is missing."""
    made = ROOT / "model.pt"
    return made if made.exists() else train_teacher("digits.py", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def vit_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits ViT with fused qkv attention; trains for a minute or two."""
    return train_teacher("digits_vit.py", tmp_path_factory.mktemp("vit"))


def train_teacher(script: str, folder: Path) -> Path:
    """Run a script of examples/teachers."""
    out = folder / "model.pt"
    command = [sys.executable, str(ROOT / "examples/teachers" / script), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    return out
