"""What repeated blocks are called: `encoder.layer.{0..11}`, from the names of their ops."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: What `Graph.fresh_name` puts behind a name in use.
_FRESH = re.compile(r"_\d+$")
_NUMBERED = re.compile(r"(.*?)(\d+)$")
_MOST_LISTED = 4


@dataclass(frozen=True)
class BlockName:
    """A name, and the part of it that is the first member's own.

    Attributes:
        text: `encoder.layer.{0..11}`.
        first: `encoder.layer.0`; empty where the names of the ops give no hint.
    """

    text: str
    first: str = ""


def block_name(members: Sequence[Sequence[str]]) -> BlockName:
    """A name for blocks whose ops correspond.

    Where the names of corresponding ops first differ, they tell the members apart; most ops agree
    on where that is. Where they do not differ (a module used several times), their common part
    is the name; where they have none, the first op is.
    """
    votes: Counter[tuple[str, ...]] = Counter()
    tokens: dict[tuple[str, ...], Counter[tuple[str, ...]]] = defaultdict(Counter)
    for names in zip(*members, strict=True):
        prefix, differing = _first_difference(names)
        if differing:
            numbered = all(_NUMBERED.match(token) for token in differing)
            votes[prefix] += 3 if numbered else 1
            tokens[prefix][differing] += 1
    if not votes:
        common = _common(members[0])
        return BlockName(".".join(common) or members[0][0], ".".join(common))
    prefix = max(votes, key=lambda key: votes[key])
    columns = [key for key, _ in tokens[prefix].most_common()]
    # a member may span several numbers (blocks 0 and 1, then 2 and 3): all with many votes count
    most = tokens[prefix][columns[0]]
    columns = [key for key in columns if 4 * tokens[prefix][key] >= most]
    return _assemble(prefix, columns)


def joint_name(names: Sequence[str]) -> str:
    """One name for corresponding ops: `encoder.layer.{0..11}.output.dense`; else the first."""
    if len(names) == 1:
        return names[0]
    split = [_FRESH.sub("", name).split(".") for name in names]
    columns = list(zip(*split, strict=False))
    distinct = [list(dict.fromkeys(column)) for column in columns]
    same_depth = len({len(parts) for parts in split}) == 1
    if not same_depth or all(len(tokens) == 1 for tokens in distinct):
        return f"{names[0]}, .."
    return ".".join(t[0] if len(t) == 1 else _braces([(token,) for token in t]) for t in distinct)


def misfit(first: Sequence[str], second: Sequence[str]) -> int:
    """How many corresponding ops of two blocks do not differ where most of them do."""
    pairs = Counter(_first_difference(names) for names in zip(first, second, strict=True))
    return len(first) - max(pairs.values(), default=0)


def _first_difference(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Common tokens, and the tokens that differ next; none of those where only a suffix does."""
    split = [name.split(".") for name in names]
    depth = 0
    while all(len(parts) > depth and parts[depth] == split[0][depth] for parts in split):
        depth += 1
    prefix = tuple(split[0][:depth])
    if any(len(parts) <= depth for parts in split):
        return prefix, ()
    differing = tuple(parts[depth] for parts in split)
    if len({_FRESH.sub("", token) for token in differing}) == 1:
        return prefix, ()
    return prefix, differing


def _common(names: Sequence[str]) -> list[str]:
    """The longest dotted prefix of nearly all of the names."""
    best: list[str] = []
    counts = Counter(
        tuple(parts[:depth])
        for parts in (name.split(".") for name in names)
        for depth in range(1, len(parts))
    )
    for prefix, count in counts.items():
        if 10 * count > 9 * len(names) and len(prefix) > len(best):
            best = list(prefix)
    return best


def _assemble(prefix: tuple[str, ...], columns: list[tuple[str, ...]]) -> BlockName:
    """The name with the differing tokens of each member in braces."""
    spans = [tuple(column[i] for column in columns) for i in range(len(columns[0]))]
    text = _braces(spans)
    first = ".".join((*prefix, spans[0][0])) if len(columns) == 1 else ""
    return BlockName(".".join((*prefix, text)), first)


def _braces(spans: Sequence[tuple[str, ...]]) -> str:
    """`{0..11}` or `stage{1..4}` for numbered tokens, `{query,key,value}` for others."""
    numbered = [[_NUMBERED.match(token) for token in span] for span in spans]
    stems = {match[1] if match else None for matches in numbered for match in matches}
    if len(stems) == 1 and None not in stems:
        numbers = [sorted(int(m[2]) for m in matches if m) for matches in numbered]
        return f"{stems.pop()}{{{_ranges(numbers)}}}"
    heads = [span[0] for span in spans]
    listed = len(set(heads)) <= _MOST_LISTED
    return f"{{{','.join(heads) if listed else f'{heads[0]}..{heads[-1]}'}}}"


def _ranges(numbers: list[list[int]]) -> str:
    """`0..11` for single consecutive numbers, `0-1..4-5` for pairs, else a list."""
    parts = [str(n[0]) if len(n) == 1 else f"{n[0]}-{n[-1]}" for n in numbers]
    steps = {b[0] - a[0] for a, b in pairwise(numbers)}
    if len(parts) > 2 and len(steps) == 1 and steps == {len(numbers[0])}:
        return f"{parts[0]}..{parts[-1]}"
    if len(parts) == 2 and steps == {1}:
        return f"{parts[0]}..{parts[1]}"
    if len(parts) <= _MOST_LISTED:
        return ",".join(parts)
    return f"{parts[0]},{parts[1]},..,{parts[-1]}"
