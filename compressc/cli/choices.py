"""`compressc choices model.pt --passes prune,lowrank --data d`: what could be done to each part."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressc.cli.model_options import (
    DataOption,
    ModelArgument,
    ModelOptions,
)
from compressc.cli.progress import progress_bar
from compressc.cli.spreading import spread
from compressc.errors import CompresscError
from compressc.offering import Cost

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.offering import Offering, Tried

_COSTS: tuple[Cost, ...] = ("parameters", "macs", "bytes")


@spread
def choices(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    passes: Annotated[str, typer.Option("--passes", "-p", help="Passes to ask: prune,lowrank.")],
    data: DataOption = None,
    given: ModelOptions,
    leave: Annotated[
        str,
        typer.Option(help="Pick what leaves this share at the least loss, and try: macs=0.6."),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what passes could do to each part of a model: what it saves, and what it loses.

    Lost is the mean squared error of the answers over their variance on calibration data, were it
    done alone and nothing trained: 0 for none, 1 for a model that always answers the same.
    """
    from compressc.offering import Offering
    from compressc.pipeline import parse_passes
    from compressc.report.console import Console
    from compressc.session import open_session

    wanted = _leave(leave)
    asked = parse_passes(passes)
    session = open_session(
        model,
        data=data,
        **given.keywords(),
    )
    with progress_bar() as tell:
        offering = Offering(session, asked, seed, tell)
        tried = offering.pick(*wanted) if wanted is not None else None
    if as_json:
        typer.echo(json.dumps(_as_json(offering, tried), indent=1))
        return
    console = Console()
    console.print(_table(offering, tried))
    if tried is not None and wanted is not None:
        left = f"{tried.left:.1%} of the {wanted[0]} left"
        lost = f"lost {tried.lost:.4f}; the sum of what each loses alone is {tried.foretold:.4f}"
        console.print(f"{len(tried.picked)} picked (*), done one behind the other: {left}, {lost}")


def _leave(text: str) -> tuple[Cost, float] | None:
    """`macs=0.6` as a cost and a share.

    Raises:
        CompresscError: CC100 for anything else.
    """
    if not text:
        return None
    name, _, share = text.partition("=")
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    for cost in _COSTS:
        if name.strip() == cost and 0 < value < 1:
            return cost, value
    raise CompresscError("CC100", f"--leave is {'=0.6, '.join(_COSTS)}=0.6 or the like", got=text)


def _table(offering: Offering, tried: Tried | None) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "pass", "part", "what"):
        table.add_column(title, overflow="fold")
    for title in ("parameters saved", "MACs saved", "lost"):
        table.add_column(title, justify="right")
    picked = set(tried.picked) if tried is not None else set()
    for place, (number, offer) in enumerate(offering.offers):
        table.add_row(
            "*" if place in picked else "",
            offering.passes[number].name,
            offer.part,
            offer.text,
            *(f"{offer.saved[of]:,.0f}" for of in ("parameters", "macs")),
            f"{offer.lost:.3g}",
        )
    return table


def _as_json(offering: Offering, tried: Tried | None) -> dict[str, Any]:
    rows = [
        {
            "pass": offering.passes[number].text,
            "part": offer.part,
            "pick": offer.pick,
            "what": offer.text,
            "saved": dict(offer.saved),
            "lost": offer.lost,
        }
        for number, offer in offering.offers
    ]
    found: dict[str, Any] = {"choices": rows}
    if tried is not None:
        found["picked"] = {
            "choices": list(tried.picked),
            "left": tried.left,
            "lost": tried.lost,
            "foretold": tried.foretold,
            "notes": [list(note) for note in tried.notes],
        }
    return found
