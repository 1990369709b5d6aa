from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from compressc.collecting import give_back, standing_objects_skipped


class Thing:
    """Holds itself, as graphs and modules that ran do."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _nothing_frozen():
    gc.unfreeze()


def test_what_comes_is_collected_and_what_stood_is_not_looked_at():
    standing, before = Thing(), gc.get_freeze_count()
    of_standing = weakref.ref(standing)
    with standing_objects_skipped():
        assert gc.get_freeze_count() > before
        of_new = weakref.ref(Thing())
        del standing
        give_back()
        assert of_new() is None
        assert of_standing() is not None
    assert gc.get_freeze_count() == before == 0
    give_back()
    assert of_standing() is None


def test_inside_another_one_and_where_the_caller_froze_it_does_nothing():
    gc.freeze()
    frozen, new = gc.get_freeze_count(), [Thing() for _ in range(1000)]
    with standing_objects_skipped(), standing_objects_skipped():
        assert 0 < gc.get_freeze_count() < frozen + len(new)  # some may have gone by themselves
    assert gc.get_freeze_count() > frozen - len(new)


def test_an_error_leaves_nothing_frozen():
    with pytest.raises(ZeroDivisionError), standing_objects_skipped():
        _ = 1 / 0
    assert gc.get_freeze_count() == 0


FREED = """
from pathlib import Path
import torch
from compressc.collecting import freed_at_once

def resident():
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024

with freed_at_once():
    before = resident()
    held = [(torch.ones(3 << 18), torch.ones(100)) for _ in range(64)]
    full = resident()
    small = [pair[1] for pair in held]
    del held
    after = resident()
print(full - before, after - before)
"""


def test_freed_pieces_go_back_to_the_system():
    """Pieces of 3 MB with small ones in between, as a library leaves them; in a fresh process."""
    words = [sys.executable, "-c", FREED]
    full, after = map(int, subprocess.run(words, capture_output=True, check=True).stdout.split())
    assert full > 180e6
    assert after < 20e6
