"""Which members of a chain stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from compressc.analysis import Block, Chain
from compressc.errors import CompresscError

Pick = Literal["spread", "first", "last", "similar", "costs"]


def count_kept(chain: Chain, depth: float) -> int:
    """Members that stay: the share, rounded up from a half, but one and those that cannot go."""
    return max(1, len(chain.held), math.floor(len(chain) * depth + 0.5))


def pick_members(chain: Chain, count: int, pick: Pick, likeness: Sequence[float] = ()) -> list[int]:
    """The numbers of the members that stay, ascending.

    Args:
        chain: what they are of; those that it holds stay.
        count: how many stay.
        pick: `spread` from the first one on in even steps (every other one of an even number, as
            DistilBERT has it: Sanh et al. 2019), the `first` or `last` ones, or `similar`: those
            go whose output is most like their input (Men et al. 2024, ShortGPT).
        likeness: cosine of input and output of each member, for `similar`.
    """
    free = [number for number in range(len(chain)) if number not in chain.held]
    wanted = count - len(chain.held)
    if pick == "similar":
        chosen = sorted(free, key=lambda number: (likeness[number], number))[:wanted]
    elif pick == "spread":
        chosen = [free[math.ceil(i * len(free) / wanted)] for i in range(wanted)]
    else:
        chosen = free[:wanted] if pick == "first" else free[len(free) - wanted :]
    return sorted([*chosen, *chain.held])


def given_members(chain: Chain, keep: Sequence[int], name: str) -> list[int]:
    """The numbers that the user gave, if the chain has them and can do without the others.

    Args:
        chain: what they are of.
        keep: the numbers.
        name: of the pass, for the message.

    Raises:
        CompresscError: CC102 for a number that is not there, CC105 where a member cannot go.
    """
    count = len(chain)
    beyond = [number for number in keep if number >= count]
    if beyond:
        raise CompresscError(
            "CC102",
            f"option 'keep' of pass '{name}' must be 0 to {count - 1}",
            got=", ".join(map(str, beyond)),
            where=f"{chain.name}, {count} blocks",
            hint="blocks=... cuts only blocks with that in their name",
        )
    for number, reason in chain.held.items():
        if number not in keep:
            raise CompresscError(
                "CC105",
                f"pass '{name}' cannot drop block {number} of {chain.name}",
                got=reason,
                hint=f"keep={','.join(map(str, sorted({*keep, *chain.held})))}",
            )
    return sorted(set(keep))


def choose_chains(
    chains: Sequence[Chain], blocks: Sequence[Block], named: str, name: str, hint: str
) -> list[Chain]:
    """The chains whose name has `named` in it.

    Args:
        chains: of the graph.
        blocks: all that repeats in it, to say what there is.
        named: part of a name; empty for all.
        name: of the pass, for the message.
        hint: what else could be done.

    Raises:
        CompresscError: CC105 where there is none, saying what there is.
    """
    found = [chain for chain in chains if named in chain.name]
    if not found:
        raise CompresscError(
            "CC105",
            f"pass '{name}' needs blocks that repeat one behind the other"
            + (f" and are called '{named}'" if named else ""),
            got=_what_there_is(chains, blocks),
            hint=hint,
        )
    if all(len(chain.held) == len(chain) for chain in found):
        first = found[0]
        raise CompresscError(
            "CC105",
            f"pass '{name}' cannot drop any block of {first.name}",
            got=next(iter(first.held.values())),
            hint=f"a model that returns less, or {hint}",
        )
    return found


def _what_there_is(chains: Sequence[Chain], blocks: Sequence[Block]) -> str:
    if chains:
        return ", ".join(f"{len(chain)} x {chain.name}" for chain in chains)
    beside = ", ".join(f"{block.count} x {block.name}" for block in blocks)
    return f"only blocks side by side: {beside}" if beside else "none that repeats"


def numbers(found: Sequence[int]) -> str:
    """`1, 3 and 5`."""
    *rest, last = map(str, found)
    return f"{', '.join(rest)} and {last}" if rest else last
