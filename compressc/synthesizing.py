"""Samples made from a teacher alone, for runs that have no data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from compressc.errors import CompresscError
from compressc.events import Event, Listener, ignore

if TYPE_CHECKING:  # imports below are inside the functions, as in `compile`
    from torch import Tensor

    from compressc.distillation import Synthesis
    from compressc.ir import Graph

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
    import torch

    from compressc.distillation import Making, parse_synthesis
    from compressc.pipeline.seeding import seeded
    from compressc.pipeline.store import Store

    if count < LEAST:
        raise CompresscError("CC100", f"{LEAST} samples or more are made", got=str(count))
    chosen = parse_synthesis(method)
    chosen.check(graph)
    folder, about = _place(graph, chosen, count, seed, device, cache)
    store = Store(folder, about, seconds=checkpoint_every, say=say)

    def progress(what: str, done: int, total: int) -> None:
        tell(Event("progress", {"what": what, "done": done, "total": total}))

    making = Making(seed, torch.device(device), store, progress, say)
    with closing(store), seeded(seed):
        made = chosen.make(graph, count, making)
        store.clear()
    return made


def _place(  # noqa: PLR0913  (all that the result depends on)
    graph: Graph,
    method: Synthesis,
    count: int,
    seed: int,
    device: str,
    cache: str | Path | None,
) -> tuple[Path | None, dict[str, object]]:
    """Where to keep how far it is, under a key of all that it depends on; and what that is."""
    import torch

    from compressc.ir import graph_hash
    from compressc.pipeline import PassCache, default_cache_folder
    from compressc.pipeline.conditions import conditions

    parts = {
        "graph": graph_hash(graph),
        "pass": method.cache_key(),
        "count": count,
        "seed": seed,
        "conditions": conditions(torch.device(device)),
    }
    folder = default_cache_folder() if cache == "default" else cache and Path(cache)
    place = PassCache(folder or None).unfinished(PassCache.key(parts))
    return place, {"text": method.text, "parts": parts}


def write(inputs: tuple[Tensor, ...], path: Path) -> None:
    """Write samples as `--data` reads them, without labels: the whole file or none.

    Raises:
        CompresscError: CC600 where it cannot be written.
    """
    import zipfile

    import numpy as np

    from compressc.durable import replacing

    names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
    try:
        with replacing(path) as aside, zipfile.ZipFile(aside, "w") as archive:
            for name, x in zip(names, inputs, strict=True):
                member = zipfile.ZipInfo(f"{name}.npy")  # of 1980: numpy's savez writes the time
                with archive.open(member, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, x.numpy(), allow_pickle=False)
    except OSError as error:
        wanted = "the file of samples can be written"
        got = error.strerror or type(error).__name__
        raise CompresscError("CC600", wanted, got=got, where=str(path)) from error
