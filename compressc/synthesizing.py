"""Samples made from a teacher alone, for runs that have no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressc import making
from compressc.errors import CompresscError
from compressc.events import Listener, ignore
from compressc.making import made_once

if TYPE_CHECKING:  # imports below are inside the functions, as in `compile`
    from torch import Tensor

    from compressc.data import Dataset
    from compressc.frontend import Loaded
    from compressc.ir import Graph
    from compressc.pipeline import Pass

#: What a run without data makes by itself, and how.
COUNT, METHOD = 1024, "deepinversion"
#: Fewer cannot be divided into parts to learn from and to be judged by.
LEAST = 16


def synthesize(  # noqa: PLR0913  (each is an option of the command line)
    graph: Graph,
    method: str = "deepinversion",
    count: int = 2000,
    *,
    seed: int = 0,
    device: str = "cpu",
    cache: str | Path | None = "default",
    checkpoint_every: float = 60.0,
    tell: Listener = ignore,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Tensor, ...]:
    """Make inputs from which a student can learn what the teacher answers.

    Args:
        graph: the teacher.
        method: a synthesis by name, with options.
        count: of samples, at least 16.
        seed: of every random choice; the same seed gives the same bytes.
        device: where the teacher runs.
        cache: folder to keep how far it is in; None keeps nothing.
        checkpoint_every: seconds of work that a crash may cost.
        tell: told how far it is.
        say: told what a user should know of the result.

    Returns:
        Inputs `[count, ...]` in the order of the model's.

    Raises:
        CompresscError: CC100 for fewer samples, CC107 for an unknown method, CC105 or CC204 for a
            teacher that it can make nothing from.
    """
    from compressc.distillation import parse_synthesis
    from compressc.ir import graph_hash

    if count < LEAST:
        raise CompresscError("CC100", f"{LEAST} samples or more are made", got=str(count))
    chosen = parse_synthesis(method)
    chosen.check(graph)
    made = made_once(
        {"graph": graph_hash(graph), "pass": chosen.cache_key(), "count": count},
        chosen.text,
        lambda given: _named(chosen.make(graph, count, given)),
        seed=seed,
        device=device,
        cache=cache,
        checkpoint_every=checkpoint_every,
        tell=tell,
        say=say,
    )
    return tuple(made.values())  # as they were made: by name, x10 would come before x2


def _named(inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """`x`, or `x0`, `x1`, ...: as `--data` takes them."""
    names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
    return dict(zip(names, inputs, strict=True))


def instead_of_data(
    passes: Sequence[Pass], read: Callable[[], Loaded], **how: Any
) -> tuple[Dataset, str] | None:
    """Samples for a run that was given no data, and a sentence that says so.

    None where a pass needs labels, or none of those that need data can do with such samples.

    Args:
        passes: of the run.
        read: reads the model.
        how: of `synthesize`.

    Raises:
        CompresscError: CC104 for an order that cannot work, before any work; CC105 where no samples
            can be made of the model.
    """
    from compressc.data.objects import as_dataset
    from compressc.pipeline import check_order

    needs = [one for one in passes if "data" in one.requirements]
    if any("labels" in one.requirements for one in passes):
        return None
    if not needs or not any(one.takes_synthetic for one in needs):
        return None
    check_order(passes)
    try:
        made = synthesize(read().graph, METHOD, COUNT, **how)
    except CompresscError as error:
        if error.code not in ("CC100", "CC105", "CC204"):
            raise
        wanted = f"pass '{needs[0].name}' needs data"
        got = f"none, and none can be made from the model: {error.got}"
        hint = "give --data digits, or your own file"
        raise CompresscError("CC105", wanted, got=got, hint=hint) from error
    text = f"no data: {COUNT:,} samples were made from the model by {METHOD}, and scores are "
    text += "agreement on such samples; judge the result on real ones"
    return as_dataset({"x": made[0]}, "synthetic"), text


def write(inputs: tuple[Tensor, ...], path: Path) -> None:
    """Write samples as `--data` reads them, without labels: the whole file or none.

    Raises:
        CompresscError: CC600 where it cannot be written.
    """
    making.write(_named(inputs), path)
