"""Samples made from a teacher alone, for runs that have no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressc.errors import CompresscError
from compressc.events import Event, Listener, ignore

if TYPE_CHECKING:  # imports below are inside the functions, as in `compile`
    from torch import Tensor

    from compressc.data import Dataset
    from compressc.distillation import Synthesis
    from compressc.frontend import Loaded
    from compressc.ir import Graph
    from compressc.pipeline import Pass

#: What a run without data makes by itself, and how.
COUNT, METHOD = 1024, "deepinversion"
#: In a folder of the cache.
_FILE = "samples.npz"
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
    from compressc.pipeline import PassCache, default_cache_folder
    from compressc.pipeline.seeding import seeded
    from compressc.pipeline.store import Store

    if count < LEAST:
        raise CompresscError("CC100", f"{LEAST} samples or more are made", got=str(count))
    chosen = parse_synthesis(method)
    chosen.check(graph)
    kept, about = _key(graph, chosen, count, seed, device), {"text": chosen.text}
    folder = default_cache_folder() if cache == "default" else cache and Path(cache)
    places, key = PassCache(folder or None), PassCache.key(kept)
    there = _read(places.samples(key), say)
    if there is not None:
        return there
    store = Store(
        places.unfinished(key), about | {"parts": kept}, seconds=checkpoint_every, say=say
    )
    making = Making(seed, torch.device(device), store, _progress(tell), say)
    with closing(store), seeded(seed):
        made = chosen.make(graph, count, making)
        if _keep(made, places.samples(key)):
            store.clear()
    return made


def _progress(tell: Listener) -> Callable[[str, int, int], None]:
    """What a synthesis tells of itself, as an event."""

    def progress(what: str, done: int, total: int) -> None:
        tell(Event("progress", {"what": what, "done": done, "total": total}))

    return progress


def _key(graph: Graph, method: Synthesis, count: int, seed: int, device: str) -> dict[str, object]:
    """All that the result depends on."""
    import torch

    from compressc.ir import graph_hash
    from compressc.pipeline.conditions import conditions

    return {
        "graph": graph_hash(graph),
        "pass": method.cache_key(),
        "count": count,
        "seed": seed,
        "conditions": conditions(torch.device(device)),
    }


def _read(folder: Path | None, say: Callable[[str], None]) -> tuple[Tensor, ...] | None:
    """Samples that were made before; None where there are none, or they are damaged."""
    import zipfile

    import numpy as np
    import torch

    try:
        with np.load((folder or Path()) / _FILE, allow_pickle=False) as archive:
            return tuple(torch.from_numpy(archive[name]) for name in sorted(archive.files))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        say(f"samples in the cache were not what was stored and are made again: {error}")
        return None


def _keep(inputs: tuple[Tensor, ...], folder: Path | None) -> bool:
    """Store what was made; a cache that cannot be written costs time, not the run."""
    from compressc.durable import make_folder

    if folder is None:
        return False
    try:
        make_folder(folder)
        write(inputs, folder / _FILE)
    except (OSError, CompresscError):
        return False
    return True


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
