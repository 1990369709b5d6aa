"""What passes could do to a model, part by part; and which of it saves enough at the least loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compressc.errors import CompresscError
from compressc.events import Listener, ignore

if TYPE_CHECKING:  # imports below are inside the functions, as in `compile`
    from compressc.ir import Graph
    from compressc.pipeline import Context, Offer, Pass
    from compressc.session import Session

#: Costs that can be saved of.
Cost = Literal["parameters", "macs", "bytes"]
#: So many picks at most, until what is left is within this share of what is wanted.
TRIES, WITHIN = 8, 0.03


@dataclass(frozen=True)
class Tried:
    """Picks, and what came of them.

    Attributes:
        picked: places of the offers that were picked.
        left: share of the cost that is left.
        foretold: sum of what the offers lose.
        lost: mean squared error of the answers over their variance on calibration data.
        notes: (op, text) of the passes.
    """

    picked: tuple[int, ...]
    left: float
    foretold: float
    lost: float
    notes: tuple[tuple[str, str], ...]


class Offering:
    """Passes, a model with data, and what the passes offer for it.

    What the passes do behind each other is tried, not foretold: offers count as if each were taken
    alone.

    Args:
        session: the model and its data.
        passes: in order.
        seed: of every random choice.
        tell: told of the progress.

    Raises:
        CompresscError: CC105 without data, or where none of the passes offers anything; CC104 for
            an order that cannot work.
    """

    def __init__(
        self, session: Session, passes: Sequence[Pass], seed: int = 0, tell: Listener = ignore
    ) -> None:
        from compressc.pipeline import Pass, plan, seeded

        dumb = [p.name for p in passes if type(p).choices is Pass.choices]
        if dumb:
            raise CompresscError("CC105", "passes that offer choices", got=", ".join(dumb))
        if session.data is None:
            raise CompresscError("CC105", "choices are weighed on data", hint="give --data")
        plan(passes, session.data)
        self.session, self.passes, self.seed, self.tell = session, passes, seed, tell
        self.offers: list[tuple[int, Offer]] = []
        with seeded(seed):
            for number, pass_ in enumerate(passes):
                found = pass_.choices(self.graph, self._context())
                self.offers += [(number, offer) for offer in found]

    @property
    def graph(self) -> Graph:
        """That of the model."""
        return self.session.loaded.graph

    def pick(self, of: Cost, share: float) -> Tried:
        """Leave a share of a cost at most, losing the least, and try it.

        Savings of neighbours overlap, so that the first picks save less than their sum: the aim is
        put right by what they did save, and picked again.

        Raises:
            CompresscError: CC102 where all that was tried leaves more.
        """
        from compressc.analysis import beside
        from compressc.pipeline import pick

        cost = beside(self.graph, self.graph, self._context().example())
        whole: int = getattr(cost, of)[1]
        tried: dict[tuple[int, ...], Tried] = {}
        low, high, aim = 0.0, math.inf, 1 - share  # aims that saved too little, and too much
        for _ in range(TRIES):
            places = pick(self.offers, of, aim * whole)
            left = -math.inf  # so much is not on offer
            if places is not None:
                tried[places] = tried.get(places) or self._try(places, of)
                left = tried[places].left
            if abs(left - share) <= WITHIN * share:
                break
            low, high = (aim, high) if left > share else (low, aim)
            aim = (low + high) / 2 if high < math.inf else aim * _more(share, left)
        enough = [one for one in tried.values() if one.left <= share * (1 + WITHIN)]
        if not enough:
            least = min((one.left for one in tried.values()), default=1.0)
            raise CompresscError(
                "CC102",
                f"choices that leave {share:.1%} of the {of}",
                got=f"{least:.1%} at least",
                hint="more passes, or a larger share",
            )
        return max(enough, key=lambda one: one.left)

    def _try(self, places: tuple[int, ...], of: Cost) -> Tried:
        """Let each pass do what was picked of it, and measure."""
        from compressc.analysis import beside
        from compressc.ir import verify
        from compressc.pipeline import seeded

        graph, context = self.graph.copy(), self._context()
        chosen = [self.offers[place] for place in places]
        with seeded(self.seed):
            for number, pass_ in enumerate(self.passes):
                own = [offer for who, offer in chosen if who == number]
                if own:
                    pass_.take(graph, context, own)
                    verify(graph, like=self.graph)
        left = beside(graph, self.graph, context.example()).share(of)
        foretold = sum(offer.lost for _, offer in chosen)
        return Tried(places, left, foretold, self._lost(graph), tuple(context.notes))

    def _lost(self, graph: Graph) -> float:
        from compressc.ir import lower
        from compressc.training import answers, scaled_error

        assert self.session.data is not None
        assert self.session.task is not None
        name = self.session.task.value_in(graph)
        inputs = self.session.data.calibration.take(256).inputs
        ours, theirs = (answers(lower(g, also=[name]).eval(), inputs) for g in (graph, self.graph))
        return float(scaled_error(ours, theirs))

    def _context(self) -> Context:
        from compressc.pipeline import Context

        return Context(
            self.graph, self.session.data, self.seed, tell=self.tell, task=self.session.task
        )


def _more(share: float, left: float) -> float:
    """By how much an aim is raised that left too much."""
    return max((1 - share) / max(1 - left, 1e-3), 1.05)
