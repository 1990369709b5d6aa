"""`check_resumes` holds a run that goes on for one, and finds those that do not."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from compressc.ir import Graph, parse_graph
from compressc.pipeline import Context, Pass
from compressc.testing import Killed, check_resumes, kill_at

TEXT = """
graph line(%x: f32[b,2]) {
  %fc = linear(%x) {in=2, out=2} @fc.weight @fc.bias : f32[b,2]   # from fc
  return %fc
}
"""


def line() -> Graph:
    tensors = {"fc.weight": torch.eye(2), "fc.bias": torch.zeros(2)}
    return parse_graph(TEXT, {k: torch.nn.Parameter(v) for k, v in tensors.items()})


class Counts(Pass):
    """Add 1 to the bias in four steps; after each it writes down how far it is."""

    name: ClassVar[str] = "counts"

    keeps: bool = True
    """Whether it writes anything down."""
    slips: bool = False
    """Whether it does one step too many where it goes on."""

    def run(self, graph: Graph, ctx: Context) -> None:
        folder = ctx.store.place("steps")
        done = len(list(folder.iterdir())) if folder is not None and self.keeps else 0
        if done:
            ctx.store.say(f"went on behind batch {done} of epoch 1")
        for step in range(done + 1, 5):
            if folder is not None:
                (folder / str(step)).touch()
            ctx.progress("counting", step, 4)
        with torch.no_grad():
            graph["fc"].layer.bias.add_(1.0 + self.slips * bool(done))
        graph.set_layer("fc", graph["fc"].layer)


def test_a_run_that_goes_on(tmp_path):
    got = check_resumes([Counts()], line(), None, tmp_path, dies_at=3)
    assert got.graph["fc"].layer.bias.tolist() == [1.0, 1.0]
    assert "went on behind batch 3 of epoch 1" in [text for _, text in got.notes]


@pytest.mark.parametrize(
    ("options", "dies_at", "found"),
    [
        ({"keeps": False}, 3, "it began anew"),
        ({"slips": True}, 3, "other bytes"),
        ({}, 5, "step 5 of '' was not told"),
    ],
)
def test_what_does_not_hold_is_found(tmp_path, options, dies_at, found):
    with pytest.raises(AssertionError, match=found):
        check_resumes([Counts(**options)], line(), None, tmp_path, dies_at=dies_at)


def test_a_run_is_killed_at_one_work_of_several():
    def work(tell, name):
        for step in (1, 2):
            Context(line(), tell=tell).progress(name, step, 2)

    tell = kill_at(2, "training", turn=2)
    work(tell, "asking")
    work(tell, "training a")
    with pytest.raises(Killed):
        work(tell, "training b")
