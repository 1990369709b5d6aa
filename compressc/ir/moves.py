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

_PICKING = """
    index_select gather take take_along_dim index flip fliplr flipud roll rot90 diagonal
    repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    tril triu im2col unfold reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d _pad_circular upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d
"""
#: Packets of calls whose every result is one of the numbers that they are given first, or a zero:
#: they pick or repeat by indices or by a rule, or pad.
PICKS: frozenset[str] = frozenset(f"aten.{name}" for name in _PICKING.split())
#: Calls that pad with what they are told -> what they are told behind the value.
PADS: dict[str, tuple[str, ...]] = {
    "aten.constant_pad_nd": ("pad", "value"),
    "aten.pad": ("pad", "mode", "value"),
}


def names_of(*moves: Move) -> list[str]:
    """Names in the library of all calls that move in one of these ways."""
    return [name for move in moves for name in _NAMES[move].split()]
