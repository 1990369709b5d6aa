"""Edits of a graph that several techniques need; what to edit, and how much, is theirs."""

from compressc.editing.cut_widths import cut_widths
from compressc.editing.expand import Stage, expand

__all__ = ["Stage", "cut_widths", "expand"]
