"""`compressc inspect model.pt --coverage --for prune,quant`: what passes can do with each op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from compressc.errors import CompresscError

if TYPE_CHECKING:
    from compressc.analysis.coverage import Coverage
    from compressc.ir import Graph
    from compressc.pipeline import Pass, TransferSet

#: Uncovered tensors that the error of `--strict` names.
_NAMED = 3


@dataclass(frozen=True)
class CoverageRequest:
    """The options of `inspect` that ask for coverage.

    Attributes:
        passes: a pass list; empty for every installed pass with its defaults.
        strict: least share of parameters that each pass must reach.
        as_json: print JSON and nothing else.
        everything: list every op by itself.
    """

    passes: str
    strict: float | None
    as_json: bool
    everything: bool


def parse_request(coverage: bool, request: CoverageRequest) -> list[Pass] | None:
    """The passes that coverage is wanted of; None where it is not wanted.

    Raises:
        CompresscError: CC101 to CC103 for the pass list.
    """
    from compressc.pipeline import parse_passes
    from compressc.plugins import PASSES, find

    if not (coverage or request.passes or request.strict is not None):
        return None
    return parse_passes(request.passes or list(find(PASSES)))


def show_coverage(
    graph: Graph, passes: Sequence[Pass], data: TransferSet | None, request: CoverageRequest
) -> None:
    """Print what the passes can do.

    Raises:
        CompresscError: CC505 where `--strict` is given and a pass reaches less; the tables are
            printed before.
    """
    from compressc.cli.coverage_view import as_json, render
    from compressc.pipeline import cover
    from compressc.report.console import Console

    found = cover(passes, graph, data)
    if request.as_json:
        typer.echo(as_json(found, graph))
    else:
        render(found, graph, Console(), request.everything)
    for coverage in found:
        if request.strict is not None and coverage.share < request.strict:
            raise _too_little(coverage, request.strict)


def _too_little(coverage: Coverage, strict: float) -> CompresscError:
    largest = "; ".join(
        f"{item.tensor} ({item.parameters:,}): {item.reason}"
        for item in coverage.uncovered[:_NAMED]
    )
    return CompresscError(
        "CC505",
        f"'{coverage.pass_text}' must reach {strict:.1%} of the parameters",
        got=f"{coverage.share:.1%}, {coverage.covered:,} of {coverage.total:,}",
        where=largest,
        hint="other options of the pass may reach more: compressc explain; or lower --strict",
    )
