"""Calls that hand on the numbers they are given, in another place, shape or dtype."""

from __future__ import annotations

from typing import Literal

#: How: the numbers themselves; in another dtype; dimensions of size 1 more or fewer; in another
#: order; in another shape, in that order; some of them; several copies.
Move = Literal["same", "cast", "ones", "reorder", "reshape", "part", "copies"]

_NAMES: dict[Move, str] = {
    "same": "alias clone contiguous detach lift_fresh lift_fresh_copy",
    "cast": "to _to_copy type_as",
    "ones": "squeeze unsqueeze atleast_1d atleast_2d atleast_3d",
    "reorder": "permute transpose t movedim moveaxis swapaxes swapdims mT mH adjoint numpy_T",
    "reshape": "reshape view _unsafe_view flatten unflatten ravel reshape_as view_as",
    "part": """
        select slice narrow unbind chunk split split_with_sizes tensor_split hsplit vsplit dsplit
        unsafe_chunk unsafe_split unsafe_split_with_sizes
    """,
    "copies": "expand expand_as broadcast_to repeat tile",
}
#: Packet of a call -> how it moves. `getitem` reads one of several results.
MOVES: dict[str, Move] = {
    **{f"aten.{name}": move for move, names in _NAMES.items() for name in names.split()},
    "getitem": "part",
}


def names_of(*moves: Move) -> list[str]:
    """Names in the library of all calls that move in one of these ways."""
    return [name for move in moves for name in _NAMES[move].split()]
