"""The order of samples as a pure function: nothing is remembered, so nothing has to be restored.

Position k of epoch e is looked up by itself. The order is a keyed permutation: a Feistel network
over the numbers of 2w bits, with the rounds' keys made of seed and epoch (Luby and Rackoff 1988);
what falls beyond the last sample is sent through once more until it does not ("cycle walking",
Black and Rogaway 2002, section 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Rounds of the network: with 4 a distinguisher needs more samples than anybody has; small sets
#: have halves of one or two bits, and want more.
_ROUNDS = 8

_Words = np.ndarray[Any, np.dtype[np.uint64]]


def order(total: int, seed: int, epoch: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Which samples come at positions `start` to `stop` of an epoch.

    Args:
        total: number of samples, at least 1.
        seed: of the run.
        epoch: counted from any number on.
        start: first position, 0 or more.
        stop: position behind the last; `total` where None.

    Returns:
        int64 `[stop - start]`. Over all positions each sample comes once. It takes memory for what
        is asked alone, and is the same on every machine.
    """
    stop = total if stop is None else stop
    if not 0 <= start <= stop <= total:
        raise ValueError(f"positions {start} to {stop} of {total} samples")
    half = np.uint64(max(1, -(-(total - 1).bit_length() // 2)))
    keys = mixed(seed, epoch, np.arange(_ROUNDS, dtype=np.uint64))
    found = _permuted(np.arange(start, stop, dtype=np.uint64), keys, half)
    while len(outside := np.flatnonzero(found >= total)):
        found[outside] = _permuted(found[outside], keys, half)
    return torch.from_numpy(found.astype(np.int64))


def _permuted(numbers: _Words, keys: _Words, half: np.uint64) -> _Words:
    """One pass through the network, a permutation of the numbers of `2 * half` bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_scrambled(right ^ key) & mask)
    return (left << half) | right


def mixed(*words: int | _Words) -> _Words:
    """A hash, uint64, of integers or arrays of them: equal words give equal hashes anywhere."""
    found: _Words = np.zeros(1, np.uint64)
    for word in words:
        plain = np.uint64(word % 2**64) if isinstance(word, int) else word
        found = _scrambled((found + np.uint64(0x9E3779B97F4A7C15)) ^ plain)
    return found


def _scrambled(words: _Words) -> _Words:
    """The finalizer of splitmix64: every bit of the input changes half of the output's."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
