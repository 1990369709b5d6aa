"""`.ir` files: a graph before, passes, the graph after, and numbers that numpy computes by itself.

`pytest tests/passes/test_snapshots.py --update` writes text and numbers anew from what the passes
do now. Text is then yours to read; numbers that are wrong fail all the same, against `by_hand`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from compressc.data import Dataset, Split
from compressc.ir import Graph, parse_graph, random_inputs, random_weights, run_graph
from compressc.pipeline import Pipeline, parse_passes
from compressc.target import Target
from tests.passes.by_hand import COMPUTED, UNTOUCHED

HERE = Path(__file__).parent
#: int8 without saturation: its numbers do not depend on the machine of the test.
TARGET = Target(instruction_set="avx512_vnni")
COLUMN = re.compile(r" +# ")
LONG = re.compile(r"\d+\.\d{5,}")


@dataclass
class Snapshot:
    """A file in its parts; `head` holds what stands in front of the first section."""

    path: Path

    def __post_init__(self) -> None:
        self.head, *sections = re.split(r"^--- ", self.path.read_text(), flags=re.MULTILINE)
        pairs = (section.split("\n", 1) for section in sections)
        self.sections = {name.strip(): body for name, body in pairs}
        options = re.findall(r"^# (passes|data|tolerance): (.+)$", self.head, re.MULTILINE)
        self.options = dict(options)

    @property
    def outputs(self) -> np.ndarray:
        rows = self.sections["outputs"].split("\n")
        return np.array([[float(word) for word in row.split()] for row in rows if row])

    def write(self, after: str, outputs: np.ndarray) -> None:
        rows = "".join(" ".join(f"{x:.5f}" for x in row) + "\n" for row in outputs)
        self.sections |= {"after": after, "outputs": rows}
        parts = (f"--- {name}\n{body}" for name, body in self.sections.items())
        self.path.write_text(self.head + "".join(parts))


def random_data(graph: Graph) -> Dataset:
    """Unlabelled normal inputs of the graph's kind."""
    parts = (random_inputs(graph, seed, batch) for seed, batch in ((1, 256), (2, 64), (3, 64)))
    return Dataset("random", *map(Split, parts))


def aligned(text: str) -> str:
    """Without regard to the column that lineage stands in, and to the last digits of a scale."""
    return LONG.sub(lambda m: f"{float(m[0]):.4g}", COLUMN.sub("  # ", text)).strip()


@pytest.mark.parametrize("name", COMPUTED)
def test_snapshot(name: str, request: pytest.FixtureRequest) -> None:
    snapshot = Snapshot(HERE / f"{name}.ir")
    text = snapshot.sections["before"]
    before = parse_graph(text, random_weights(parse_graph(text)))
    weights = {key: value.detach().numpy() for key, value in before.tensors().items()}
    (x,) = random_inputs(before, seed=9, batch=3)
    data = random_data(before) if "data" in snapshot.options else None
    passes = parse_passes(snapshot.options["passes"])
    after = Pipeline(passes, data, target=TARGET).run(before)[-1].graph
    (got,) = run_graph(after, (x,))
    if request.config.getoption("--update"):
        snapshot.write(str(after), got.numpy())
    assert aligned(str(after)) == aligned(snapshot.sections["after"])
    assert (aligned(str(after)) == aligned(text)) == (name in UNTOUCHED)
    tolerance = float(snapshot.options.get("tolerance", 2e-5))
    assert torch.allclose(got.double(), torch.from_numpy(snapshot.outputs), rtol=0, atol=tolerance)
    by_hand = COMPUTED[name](weights, x.numpy())
    assert np.abs(snapshot.outputs - by_hand).max() <= tolerance


def test_every_pass_has_a_file_where_it_acts_and_one_where_it_must_not() -> None:
    passes = {"simplify", "student", "prune", "sparsify", "lowrank", "distill", "quant"}
    assert {name.partition("/")[0] for name in UNTOUCHED} == passes
    assert {name.partition("/")[0] for name in COMPUTED if name not in UNTOUCHED} == passes
    written = {p for p in HERE.glob("*/*.ir") if "--- before" in p.read_text()}
    assert written == {HERE / f"{name}.ir" for name in COMPUTED}
