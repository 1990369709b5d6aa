"""Fewer blocks: which of a chain stay, the cut, and what it means for each op."""

from compressc.depth.choosing import Pick, count_kept, given_members, pick_members
from compressc.depth.dropping import Depth
from compressc.depth.likeness import likeness
from compressc.depth.verdicts import dropped, merged, tensors_of

__all__ = [
    "Depth",
    "Pick",
    "count_kept",
    "dropped",
    "given_members",
    "likeness",
    "merged",
    "pick_members",
    "tensors_of",
]
