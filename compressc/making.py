"""Arrays that take long to make are made once: kept in the cache, gone on with, written whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressc.errors import CompresscError
from compressc.events import Event, Listener, ignore

if TYPE_CHECKING:  # imports below are inside the functions, as in `compile`
    from torch import Tensor

    from compressc.distillation import Making

#: In a folder of the cache.
_FILE = "samples.npz"


def made_once(  # noqa: PLR0913  (what to make, and how it is kept)
    parts: Mapping[str, Any],
    text: str,
    work: Callable[[Making], Mapping[str, Tensor]],
    *,
    seed: int = 0,
    device: str = "cpu",
    cache: str | Path | None = "default",
    checkpoint_every: float = 60.0,
    tell: Listener = ignore,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Tensor]:
    """What `work` makes, or made before.

    Args:
        parts: all that the result depends on, beside seed and device.
        text: what is made, for people who look into the cache.
        work: makes the arrays, by name.
        seed: of every random choice; the same seed gives the same bytes.
        device: where it works.
        cache: folder to keep the result, and how far it is; None keeps nothing.
        checkpoint_every: seconds of work that a crash may cost.
        tell: told how far it is.
        say: told what a user should know of the result.
    """
    import torch

    from compressc.distillation import Making
    from compressc.pipeline import PassCache, default_cache_folder
    from compressc.pipeline.conditions import conditions
    from compressc.pipeline.seeding import seeded
    from compressc.pipeline.store import Store

    place = torch.device(device)
    depends = {**parts, "seed": seed, "conditions": conditions(place)}
    folder = default_cache_folder() if cache == "default" else cache and Path(cache)
    places, key = PassCache(folder or None), PassCache.key(depends)
    there = _read(places.samples(key), say)
    if there is not None:
        return there
    about = {"text": text, "parts": depends}
    store = Store(places.unfinished(key), about, seconds=checkpoint_every, say=say)
    making = Making(seed, place, store, _progress(tell), say)
    with closing(store), seeded(seed):
        made = dict(work(making))
        if _keep(made, places.samples(key)):
            store.clear()
    return made


def write(arrays: Mapping[str, Tensor], path: Path) -> None:
    """Write arrays as `--data` reads them: the whole file or none.

    Raises:
        CompresscError: CC600 where it cannot be written.
    """
    import zipfile

    import numpy as np

    from compressc.durable import replacing

    try:
        with replacing(path) as aside, zipfile.ZipFile(aside, "w") as archive:
            for name, x in arrays.items():
                member = zipfile.ZipInfo(f"{name}.npy")  # of 1980: numpy's savez writes the time
                with archive.open(member, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, x.numpy(), allow_pickle=False)
    except OSError as error:
        wanted = "the file of samples can be written"
        got = error.strerror or type(error).__name__
        raise CompresscError("CC600", wanted, got=got, where=str(path)) from error


def _progress(tell: Listener) -> Callable[[str, int, int], None]:
    """What is told of the work, as an event."""

    def progress(what: str, done: int, total: int) -> None:
        tell(Event("progress", {"what": what, "done": done, "total": total}))

    return progress


def _read(folder: Path | None, say: Callable[[str], None]) -> dict[str, Tensor] | None:
    """What was made before; None where there is nothing, or it is damaged."""
    import zipfile

    import numpy as np
    import torch

    try:
        with np.load((folder or Path()) / _FILE, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        say(f"samples in the cache were not what was stored and are made again: {error}")
        return None


def _keep(arrays: Mapping[str, Tensor], folder: Path | None) -> bool:
    """Store what was made; a cache that cannot be written costs time, not the run."""
    from compressc.durable import make_folder

    if folder is None:
        return False
    try:
        make_folder(folder)
        write(arrays, folder / _FILE)
    except (OSError, CompresscError):
        return False
    return True
