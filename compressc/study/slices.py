"""Parts of the test samples that a user names: `--slices file.npz`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compressc.data.arrays import Array
from compressc.data.npz import open_archive
from compressc.errors import CompresscError

#: Values of one array of groups.
MOST = 64


def read_slices(path: Path, samples: int) -> dict[str, Tensor]:
    """Slices by name, bool[n] each.

    An array of bools is one slice, of its name; one of integers has a slice for each value,
    `name=value`.

    Args:
        path: an .npz file of arrays `[n]`, in the order of the test part.
        samples: of the test part, n.

    Raises:
        CompresscError: CC300 for a file that cannot be read or holds other things, CC301 for an
            array of another length or a slice without samples.
    """
    found: dict[str, Tensor] = {}
    with open_archive(path) as archive:
        for name, member in archive.members.items():
            where = f"{path}, {name}"
            if member.shape != (samples,):
                wanted = f"a slice has an entry for each of {samples} test samples"
                got = f"shape {list(member.shape)}"
                raise CompresscError("CC301", wanted, got=got, where=where)
            found |= dict(_parts(name, archive.read(name), where))
    if not found:
        raise CompresscError("CC300", "an archive with slices", got="no array", where=str(path))
    return found


def _parts(name: str, values: Array, where: str) -> Iterator[tuple[str, Tensor]]:
    if values.dtype == np.bool_:
        mask = torch.from_numpy(values.copy())
        if not mask.any():
            raise CompresscError("CC301", "a slice has samples", got="none", where=where)
        yield name, mask
        return
    if values.dtype.kind not in "iu":
        wanted = "slices are bools, or integers of groups"
        raise CompresscError("CC300", wanted, got=f"dtype {values.dtype}", where=where)
    groups = np.unique(values)
    if len(groups) > MOST:
        wanted = f"at most {MOST} groups in an array"
        raise CompresscError("CC301", wanted, got=str(len(groups)), where=where)
    for group in groups:
        yield f"{name}={group}", torch.from_numpy(values == group)
