"""What must hold for every model of the zoo; the result is a row of the docs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from compressc.backend.exporting import export_graph
from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import LAYERS, Graph, lower, parse_graph, save_bundle
from compressc.quiet import quiet
from tests.zoo.case import Case

Tensors = list[torch.Tensor]

#: Where the rows are published.
DOCUMENT = Path(__file__).parents[2] / "docs" / "zoo.md"
HEADER = ("| model | ops | layers | ATen | parameters | result |", "|---|---|---|---|---|---|")

#: Sizes to trace with, and two others that must do as well.
TRACED = {"b": 3, "s": 9, "t": 7}
OTHERS = ({"b": 2, "s": 12, "t": 5}, {"b": 1, "s": 8, "t": 4})
#: What a model may be off by that its own code computes differently when it is traced.
ROUNDING = 1e-5


@dataclass
class Row:
    """One line of the table: what came of a model."""

    model: str
    ops: int = 0
    layers: int = 0
    aten: int = 0
    parameters: int = 0
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """`exact`, or what is not."""
        return "; ".join([*self.faults, *self.remarks]) or "exact"

    def __str__(self) -> str:
        """The row in Markdown."""
        cells = (self.model, self.ops, self.layers, self.aten, f"{self.parameters:,}")
        return f"| {' | '.join(map(str, cells))} | {self.status} |"


class Stranger:
    """The process of `stranger.py`."""

    def __enter__(self) -> Self:
        script = str(Path(__file__).with_name("stranger.py"))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script], stdin=pipe, stdout=pipe, text=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def run(self, model: Path, inputs: tuple[torch.Tensor, ...]) -> Tensors:
        """The outputs of a model file, computed over there.

        Raises:
            RuntimeError: with the error of the other side.
        """
        given, found = model.parent / "inputs.safetensors", model.parent / "outputs.safetensors"
        save_file({str(i): t.contiguous() for i, t in enumerate(inputs)}, given)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{model}\t{given}\t{found}\t{torch.get_num_threads()}\n")
        self._process.stdin.flush()
        if (answer := self._process.stdout.readline().strip()) != "done":
            raise RuntimeError(answer)
        tensors = load_file(found)
        return [tensors[str(i)] for i in range(len(tensors))]


def documented_rows() -> set[str]:
    """The rows of docs/zoo.md."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line.startswith("| ")}


def check(case: Case, folder: Path, stranger: Stranger) -> Row:
    """Every check of one model."""
    row = Row(case.name)
    example = case.example(**TRACED)
    try:
        graph = load_model(case.module, example=example, input_spec=case.specs).graph
    except CompresscError as error:
        refused = f"refused: {error.code}, {error.wanted} (got {error.got})"
        (row.remarks if error.code == case.refusal else row.faults).append(refused)
        return row
    if case.refusal:
        row.faults.append(f"taken, though {case.refusal} was expected")
    row.ops = len(graph) - len(graph.inputs)
    row.layers = sum(op.kind in LAYERS for op in graph)
    row.aten = row.ops - row.layers
    row.parameters = sum(p.numel() for p in lower(graph).parameters())
    _check_numbers(row, case, graph)
    _check_text(row, graph)
    _check_files(row, case, graph, folder, stranger)
    _check_gradients(row, case, graph)
    return row


def outputs(graph: Graph, example: tuple[torch.Tensor, ...]) -> Tensors:
    """What the graph computes."""
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(lower(graph)(*example)) if _is_tensor(leaf)]


def _check_numbers(row: Row, case: Case, graph: Graph) -> None:
    """Bit-equal to the user's module, at the traced sizes and at others."""
    worst = 0.0
    for sizes in (TRACED, *OTHERS):
        example = case.example(seed=1, **sizes)
        with torch.no_grad(), quiet():
            want = [leaf for leaf in tree_leaves(case.call(example)) if _is_tensor(leaf)]
        got = outputs(graph, example)
        if [t.shape for t in got] != [t.shape for t in want]:
            row.faults.append(f"other shapes at {sizes}")
            return
        worst = max([worst, *(_difference(g, w) for g, w in zip(got, want, strict=True))])
    if worst > ROUNDING or (worst and not case.inexact):
        row.faults.append(f"differs by {worst:.1e}")
    elif worst:
        row.remarks.append(f"equal to {ROUNDING:g}, not bit by bit: {case.inexact}")


def _difference(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference as a share of the largest value; 0 only for equal bits."""
    if torch.equal(got, want):
        return 0.0
    scale = want.double().abs().max().clamp_min(1e-12)
    return float(((got.double() - want.double()).abs().max() / scale).nan_to_num(torch.inf))


def _check_text(row: Row, graph: Graph) -> None:
    text = str(graph)
    if str(parse_graph(text, graph.tensors())) != text:
        row.faults.append("the text does not read back")


def _check_files(row: Row, case: Case, graph: Graph, folder: Path, stranger: Stranger) -> None:
    """A bundle and a .pt2 file, run where the user's code cannot be imported."""
    example = case.example(seed=2, **OTHERS[0])
    want = outputs(graph, example)
    save_bundle(graph, folder / "graph")
    try:
        with quiet():
            torch.export.save(export_graph(graph, case.example(**TRACED)), folder / "again.pt2")
    except CompresscError as error:
        row.faults.append(f"no .pt2 again: {error.got}")
        return
    for file in (folder / "graph", folder / "again.pt2"):
        try:
            got = stranger.run(file, example)
        except RuntimeError as error:
            row.faults.append(f"{file.name} does not load: {error}")
        else:
            if not all(torch.equal(g, w) for g, w in zip(got, want, strict=True)):
                row.faults.append(f"{file.name} computes something else")


def _trained(module: nn.Module) -> int:
    """Numbers with a gradient; a weight that others compute (a weight norm) counts as itself."""
    total = sum(p.grad.numel() for p in module.parameters() if p.grad is not None)
    for owner in module.modules():
        if is_parametrized(owner):
            for name, sources in owner.parametrizations.items():
                total += getattr(owner, name).numel() - sum(p.numel() for p in sources.parameters())
    return total


def _check_gradients(row: Row, case: Case, graph: Graph) -> None:
    """Training mode reaches every parameter that the user's module would train."""
    example = case.example(**TRACED)
    case.module.requires_grad_(True)
    _loss(case.call(example)).backward()
    wanted = _trained(case.module)
    case.module.zero_grad(set_to_none=True)
    module = lower(graph).train()
    _loss(module(*example)).backward()
    missing = [name for name, p in module.named_parameters() if p.grad is None]
    got = sum(p.grad.numel() for p in module.parameters() if p.grad is not None)
    module.eval()
    if missing:
        row.faults.append(f"no gradient for {', '.join(missing[:3])}")
    elif got != wanted:
        row.faults.append(f"gradients for {got:,} of {wanted:,} parameters")


def _loss(result: Any) -> torch.Tensor:
    leaves = [leaf for leaf in tree_leaves(result) if _is_tensor(leaf)]
    floats = [leaf for leaf in leaves if leaf.is_floating_point() and leaf.requires_grad]
    return torch.stack([leaf.nan_to_num().square().mean() for leaf in floats]).sum()


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)
