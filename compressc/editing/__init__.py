"""Edits of a graph that several techniques need; what to edit, and how much, is theirs."""

from compressc.editing.choose_early import choose_early
from compressc.editing.cut_widths import cut_widths
from compressc.editing.drop_blocks import drop_blocks, erase_unread
from compressc.editing.expand import Stage, expand
from compressc.editing.read_floats import computes_on_integers, read_floats
from compressc.editing.replace_body import replace_body
from compressc.editing.split_layers import split_layers

__all__ = [
    "Stage",
    "choose_early",
    "computes_on_integers",
    "cut_widths",
    "drop_blocks",
    "erase_unread",
    "expand",
    "read_floats",
    "replace_body",
    "split_layers",
]
