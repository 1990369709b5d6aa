"""What every test shares: one teacher for a session, and a cache that is the session's own."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see compressc.cli
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:  # in the background, or by nohup: so would be
        signal.signal(_number, signal.SIG_DFL)  # every command under test
ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update`: write the `.ir` files of tests/passes anew."""
    parser.addoption("--update", action="store_true", help="write .ir files anew, then compare")
    parser.addoption("--share", help="K/N: of the selected tests, the K-th of N shares")
    parser.addoption("--box", type=float, help="seconds after which no further test begins")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one share of the tests: which one a test is in depends on its name alone."""
    share = config.getoption("--share")
    if share is None:
        return
    match = re.fullmatch(r"(\d+)/(\d+)", share)
    if match is None or int(match[2]) < 1:
        raise pytest.UsageError(f"--share is K/N, not {share}")
    number, shares = int(match[1]), int(match[2])
    chosen = {i for i in items if zlib.crc32(i.nodeid.encode()) % shares == number % shares}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


_STARTED = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the time box has no room for; the closing line counts it."""
    box = item.config.getoption("--box")
    if box is not None and time.monotonic() - _STARTED > box:
        pytest.skip(f"the time box of {box:g} s is full")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache."""
    os.environ["COMPRESSC_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _imported_modules_are_no_garbage() -> None:
    """A run collects cycles after each pass: in a process of many imports, half a second each."""
    gc.collect()
    gc.freeze()


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
