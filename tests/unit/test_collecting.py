from __future__ import annotations

import gc
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
