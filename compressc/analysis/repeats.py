"""Repeats in a sequence of labels, by Weisfeiler-Lehman refinement along the sequence.

Round j gives every position the class of its 2**j following labels: the pair of its own class and
that of the position 2**(j-1) further on. Positions of one class start equal stretches, so the
distance to the next of the class is a candidate for a period, and comparing classes from the
widest round down measures how far it holds. Rounds are few and each sorts once: O(n log^2 n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """A stretch in which every label equals the one a period further on.

    Attributes:
        start: its first position.
        end: behind its last position; at least two periods behind `start`.
        period: the distance.
    """

    start: int
    end: int
    period: int


def find_runs(labels: Ints) -> list[Run]:
    """The maximal runs, those that cover most first.

    Args:
        labels: i64[n]; equal numbers are equal labels.
    """
    rounds = _refine(labels)
    found: set[tuple[int, int, int]] = set()
    for level, classes in enumerate(rounds):
        starts, periods = _candidates(classes, 1 << level)
        ahead = _agreement(rounds, starts, periods)
        behind = _agreement_backwards(rounds, starts, periods)
        low, high = starts - behind, starts + periods + ahead
        long_enough = high - low >= 2 * periods
        columns = (array[long_enough].tolist() for array in (low, high, periods))
        found.update(zip(*columns, strict=True))
    runs = [Run(*item) for item in found]
    return sorted(runs, key=lambda run: (run.start - run.end, run.period, run.start))


def _refine(labels: Ints) -> list[Ints]:
    """Classes of the 2**j labels from each position on; round j has n - 2**j + 1 of them."""
    rounds = [np.unique(labels, return_inverse=True)[1].astype(np.int64)]
    width = 1
    while 2 * width <= len(labels):
        last = rounds[-1]
        pairs = last[:-width] * (int(last.max()) + 1) + last[width:]
        rounds.append(np.unique(pairs, return_inverse=True)[1].astype(np.int64))
        width *= 2
    return rounds


def _candidates(classes: Ints, width: int) -> tuple[Ints, Ints]:
    """(position, distance) to the next of the class, for distances of one to two widths.

    Neighbours at one distance belong to one run: the first of them stands for all.
    """
    order = np.argsort(classes, kind="stable")
    same = classes[order[1:]] == classes[order[:-1]]
    starts, periods = order[:-1][same], (order[1:] - order[:-1])[same]
    near = (periods >= width) & (periods < 2 * width)
    starts, periods = starts[near], periods[near]
    order = np.lexsort((starts, periods))
    starts, periods = starts[order], periods[order]
    first = np.ones(len(starts), dtype=bool)
    first[1:] = (np.diff(periods) != 0) | (np.diff(starts) != 1)
    return starts[first], periods[first]


def _agreement(rounds: list[Ints], starts: Ints, periods: Ints) -> Ints:
    """How many labels from `starts` on equal those a period further on."""
    length = np.zeros_like(starts)
    for level in range(len(rounds) - 1, -1, -1):
        classes = rounds[level]
        here, there = starts + length, starts + length + periods
        inside = there < len(classes)
        equal = np.zeros(len(starts), dtype=bool)
        equal[inside] = classes[here[inside]] == classes[there[inside]]
        length[equal] += 1 << level
    return length


def _agreement_backwards(rounds: list[Ints], starts: Ints, periods: Ints) -> Ints:
    """How many labels before `starts` equal those a period further on."""
    length = np.zeros_like(starts)
    for level in range(len(rounds) - 1, -1, -1):
        classes = rounds[level]
        here = starts - length - (1 << level)
        there = here + periods
        inside = (here >= 0) & (there < len(classes))
        equal = np.zeros(len(starts), dtype=bool)
        equal[inside] = classes[here[inside]] == classes[there[inside]]
        length[equal] += 1 << level
    return length
