"""Coverage as tables for a terminal of 100 columns, and as JSON for programs."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.analysis.coverage import Coverage, Verdict
    from compressc.ir import Graph
    from compressc.report.console import Console

#: How each outcome is marked, in words below the tables.
MARKS = {"does": "+", "cannot": "-", "unknown": "?", "idle": "."}
STYLES = {"does": "", "cannot": "yellow", "unknown": "yellow", "idle": "dim"}
LEGEND = (
    "+ done   - cannot be done   ? the pass does not say   . nothing to do\n"
    "share: of the parameters in tensors that the pass changes"
)
#: Widest columns of op names and kinds, and the longest reference printed whole.
_NAME, _KIND, _REFERENCE = 34, 15, 24


def render(coverages: Sequence[Coverage], graph: Graph, console: Console, everything: bool) -> None:
    """The ops pass by pass, the summary last.

    Args:
        coverages: of the passes, in order.
        graph: the graph they are about.
        console: where to print.
        everything: a row for every op; else ops without weights are grouped between those with.
    """
    for coverage in coverages:
        _print_ops(coverage, list(_rows(coverage, graph, everything)), console)
    console.print(_summary(coverages, graph), "")
    console.print(LEGEND)


def as_json(coverages: Sequence[Coverage], graph: Graph) -> str:
    """Every verdict on every op, and every parameter that is left; `share` is of parameters."""
    return json.dumps(
        {
            "graph": graph.name,
            "ops": len(graph),
            "passes": [_record(coverage, graph) for coverage in coverages],
        },
        indent=2,
    )


def _record(coverage: Coverage, graph: Graph) -> dict[str, Any]:
    from compressc.analysis.coverage import parameters_of

    return {
        "pass": coverage.pass_text,
        "parameters": coverage.total,
        "covered_parameters": coverage.covered,
        "share": coverage.share,
        "counts": coverage.counts(),
        "ops": [
            {
                "op": op.name,
                "kind": op.kind,
                "parameters": sum(tensor.numel() for _, tensor in parameters_of(op)),
                "outcome": coverage.verdicts[op.name].outcome,
                "text": coverage.verdicts[op.name].text,
                "tensors": sorted(coverage.verdicts[op.name].tensors),
            }
            for op in graph
        ],
        "uncovered": [asdict(item) for item in coverage.uncovered],
    }


@dataclass
class _Row:
    """Ops with one verdict: one that holds weights, or a group of those that do not."""

    verdict: Verdict
    ops: list[str]
    kind: str = ""
    parameters: int = 0

    @property
    def module(self) -> str:
        """Path of the module that the (first) op is in."""
        counted = self.verdict.outcome == "idle" and not self.kind
        return "" if counted else self.ops[0].rpartition(".")[0]

    @property
    def short_kind(self) -> str:
        """The kind, where it says more than the name does."""
        kind = self.kind.removeprefix("aten.")
        return kind if len(kind) <= _KIND else f"{kind[: _KIND - 2]}.."

    @property
    def size(self) -> str:
        """Parameters, where there are any."""
        return f"{self.parameters:,}" if self.parameters else ""

    @property
    def label(self) -> str:
        """The op within its module, or how many and which ops."""
        first = self.ops[0].removeprefix(f"{self.module}.")
        if len(self.ops) == 1:
            return first
        last = self.ops[-1].removeprefix(f"{self.module}.") if self.module else ""
        return f"{len(self.ops)} ops" + (f": {first} .. {last}" if last else "")


def _print_ops(coverage: Coverage, rows: Sequence[_Row], console: Console) -> None:
    from rich.text import Text

    name = min(_NAME, max((len(row.label) for row in rows), default=0))
    kind = max((len(row.short_kind) for row in rows), default=0)
    size = max((len(row.size) for row in rows), default=0)
    console.print(Text(coverage.pass_text, style="bold"))
    module = ""
    for row in rows:
        if row.module != module:
            module = row.module
            console.print(Text(f"    {module}" if module else "", style="dim"))
        mark = MARKS[row.verdict.outcome]
        start = f"{mark} {row.label:<{name}}  {row.short_kind:<{kind}} {row.size:>{size}}  "
        lines = textwrap.wrap(_relative(row), max(console.width - len(start), 24))
        indented = ("\n" + " " * len(start)).join(lines)
        console.print(Text(start + indented, style=STYLES[row.verdict.outcome]))
    console.print()


def _relative(row: _Row) -> str:
    """What is said of an op, other ops named as seen from there."""
    return _REF.sub(lambda found: _shortened(found[0], row.ops[0]), row.verdict.text)


_REF = re.compile(r"%[\w.]+")


def _shortened(reference: str, beside: str) -> str:
    """`%...self.query` for a long reference: the path it shares with the op beside it left out."""
    if len(reference) <= _REFERENCE:
        return reference
    ours, theirs = beside.split("."), reference[1:].split(".")
    shared = 0
    while shared < min(len(ours), len(theirs) - 1) and ours[shared] == theirs[shared]:
        shared += 1
    return f"%...{'.'.join(theirs[shared:])}" if shared else reference


def _rows(coverage: Coverage, graph: Graph, everything: bool) -> Iterator[_Row]:
    """Rows in the order of the graph; ops with nothing to do are counted at the end."""
    from compressc.analysis.coverage import parameters_of

    between: dict[Verdict, _Row] = {}
    idle: dict[Verdict, _Row] = {}
    for op in graph:
        verdict = coverage.verdicts[op.name]
        size = sum(tensor.numel() for _, tensor in parameters_of(op))
        if size or everything:
            yield from between.values()
            between.clear()
            yield _Row(verdict, [op.name], op.kind, size)
            continue
        groups = idle if verdict.outcome == "idle" else between
        groups.setdefault(verdict, _Row(verdict, [])).ops.append(op.name)
    yield from between.values()
    yield from idle.values()


def _summary(coverages: Sequence[Coverage], graph: Graph) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from compressc.analysis.coverage import parameters_of

    weighted = {op.name for op in graph if parameters_of(op)}
    title = f"coverage of {graph.name}: {len(graph)} ops, {len(weighted)} of them with parameters"
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("pass", overflow="fold")
    for name in ("parameters", "share", "ops", "with parameters", "cannot", "unsaid", "idle"):
        table.add_column(name, justify="right", no_wrap=True)
    for coverage in coverages:
        done = {name for name, v in coverage.verdicts.items() if v.outcome == "does"}
        counts = coverage.counts()
        table.add_row(
            coverage.pass_text,
            f"{coverage.covered:,} of {coverage.total:,}",
            f"{coverage.share:.1%}",
            f"{len(done)} ({len(done) / max(len(graph), 1):.0%})",
            str(len(done & weighted)),
            *(str(counts[outcome]) for outcome in ("cannot", "unknown", "idle")),
        )
    return table
