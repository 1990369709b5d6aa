"""`check_resumes`: passes that are killed inside a training go on, to the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compressc.events import Event, Listener, ignore
from compressc.ir import Graph, graph_hash
from compressc.pipeline import Pass, PassCache, PassResult, Pipeline, TransferSet
from compressc.target import Target
from compressc.tasks import SettledTask

#: How the note begins by which a pass says that it went on.
WENT_ON = "went on behind batch "


class Killed(BaseException):
    """In place of `kill -9`: nothing of a run catches it."""


def kill_at(done: int, what: str = "", turn: int = 1) -> Listener:
    """A listener that ends a run when so many steps are told to be done, for the turn-th time.

    Args:
        done: steps of the work, from 1.
        what: how the work's name begins; any without.
        turn: of works of that name one behind the other, which one; from 1.

    Raises:
        Killed: from the listener.
    """
    left = turn

    def tell(event: Event) -> None:
        nonlocal left
        facts = event.facts
        if event.kind == "progress" and facts["done"] == done and facts["what"].startswith(what):
            left -= 1
            if not left:
                raise Killed

    return tell


def check_resumes(  # noqa: PLR0913  (what is run, and where it ends)
    passes: Sequence[Pass],
    graph: Graph,
    data: TransferSet | None,
    folder: Path,
    *,
    dies_at: int,
    what: str = "",
    turn: int = 1,
    task: SettledTask | None = None,
    target: Target | None = None,
) -> PassResult:
    """Run passes whole, then killed inside the last one and again, which has to go on.

    Both ways come to the same graph, bit for bit, the same records, and the same notes but for
    those that say that it went on; nothing unfinished is left behind, and a further run takes the
    result out of the cache.

    Args:
        passes: the last one trains.
        graph, data, task, target: as for `Pipeline`.
        folder: an empty one, for the cache.
        dies_at, what, turn: the training's step at which it ends, as for `kill_at`.

    Returns:
        What the last pass of the run that went on came to.

    Raises:
        AssertionError: where that does not hold, or the run was not killed.
    """

    def run(cache: Path | None, tell: Listener = ignore) -> PassResult:
        kept, where = PassCache(cache), target or Target()
        pipeline = Pipeline(passes, data, 0, kept, tell, 0.0, task, where)
        return pipeline.run(graph)[-1]

    want = run(None)
    try:
        run(folder, kill_at(dies_at, what, turn))
    except Killed:
        pass
    else:
        raise AssertionError(f"step {dies_at} of '{what}' was not told {turn} times")
    got = run(folder)
    assert not got.cached, "the killed run left a result in the cache"
    assert graph_hash(got.graph) == graph_hash(want.graph), "other bytes than those of a whole run"
    assert got.records == want.records, "other records than those of a whole run"
    others = [note for note in got.notes if not note[1].startswith(WENT_ON)]
    assert len(others) < len(got.notes), f"no note '{WENT_ON}...': it began anew"
    assert others == list(want.notes), f"other notes than {want.notes}: {others}"
    assert not list(folder.glob("*.unfinished")), "a checkpoint was left behind"
    assert run(folder).cached, "the result was not kept"
    return got
