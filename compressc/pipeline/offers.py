"""What a pass could do to each part of a graph, for whoever chooses among several passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressc.pipeline.choices import Choice, choose


@dataclass(frozen=True)
class Offer:
    """One thing that a pass could do to one part of a graph.

    Attributes:
        part: what it would be done to; of several offers for a part one can be picked.
        pick: how much, for the pass that takes it back: `24`, or `svd 12`.
        text: the same in words: `24 of 32 channels`.
        saved: of `parameters`, `macs` of one sample, `bytes` of all tensors: how many fewer there
            are, were it done alone.
        lost: mean squared error of the answers over their variance on calibration data, were it
            done alone; measured or predicted, 1 for a model that always answers the same.
    """

    part: str
    pick: int | str
    text: str
    saved: Mapping[str, float]
    lost: float


def pick(offers: Sequence[tuple[int, Offer]], of: str, least: float) -> tuple[int, ...] | None:
    """Places of those that save so much together and lose the least; None where all do not save it.

    Savings and losses count as if they added up.

    Args:
        offers: each with the number of the pass that makes it.
        of: what is to be saved.
        least: how much of it.
    """
    menus: dict[tuple[int, str], list[Choice[int | None]]] = {}
    for place, (who, offer) in enumerate(offers):
        menu = menus.setdefault((who, offer.part), [Choice(None, 0.0, 0.0)])
        menu.append(Choice(place, -offer.saved[of], offer.lost))
    chosen = choose(menus, -least)
    if chosen is None:
        return None
    return tuple(sorted(c.pick for c in chosen.values() if c.pick is not None))
