"""Is this list of passes one that can work? Checked before any work starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline.options import parse_pass
from compressc.pipeline.pass_ import Pass
from compressc.pipeline.samples import TransferSet


@dataclass(frozen=True)
class Step:
    """A pass in its place; `inserted_for` names the pass that asked for it as its prelude."""

    pass_: Pass
    inserted_for: str | None = None


def plan(
    passes: Sequence[Pass], data: TransferSet | None, *, any_order: bool = False
) -> list[Step]:
    """The steps of a run: preludes put in, order and needs checked.

    Args:
        passes: as they were asked for.
        data: of the run.
        any_order: let an order be that the passes speak against, to measure what it is worth.

    Raises:
        CompresscError: CC104 for an order that cannot work, CC105 for missing data or labels.
    """
    if not any_order:
        check_order(passes)
    for pass_ in passes:
        _check_needs(pass_, data)
    steps: list[Step] = []
    for pass_ in passes:
        before = steps[-1].pass_.name if steps else ""
        steps += [
            Step(parse_pass(name), inserted_for=pass_.name)
            for name in pass_.prelude
            if name != before
        ]
        steps.append(Step(pass_))
    if not any_order:
        check_order([step.pass_ for step in steps])  # a prelude has its place, too
    return steps


def check_order(passes: Sequence[Pass]) -> None:
    """See that each pass comes where it must.

    Raises:
        CompresscError: CC104 for an order that cannot work.
    """
    for i, early in enumerate(passes):
        for late in passes[i + 1 :]:
            reason = early.after.get(late.name) or late.before.get(early.name)
            if reason and early.name != late.name:
                raise CompresscError(
                    "CC104",
                    f"'{late.name}' must come before '{early.name}'",
                    got=f"{early.name},...,{late.name}",
                    hint=reason,
                )


def _check_needs(pass_: Pass, data: TransferSet | None) -> None:
    if pass_.requirements and data is None:
        raise CompresscError(
            "CC105", f"pass '{pass_.name}' needs data", hint="give --data digits, or your own file"
        )
    if "labels" in pass_.requirements and data is not None and not data.train.has_labels:
        raise CompresscError("CC105", f"pass '{pass_.name}' needs labels", got="a data set without")


def require_floats(passes: Sequence[Pass], graph: Graph) -> None:
    """See that every pass takes weights of the model's dtypes, before any work.

    Raises:
        CompresscError: CC105 naming the pass and the dtype.
    """
    found = {t.dtype for t in graph.tensors().values() if t.is_floating_point()}
    for pass_ in passes:
        other = found - pass_.floats if pass_.floats is not None else set()
        if other and pass_.floats is not None:
            raise CompresscError(
                "CC105",
                f"pass '{pass_.name}' needs a model in {_names(pass_.floats)}",
                got=_names(other),
                hint="--dtype float32 converts it",
            )


def _names(dtypes: Iterable[torch.dtype]) -> str:
    return " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
