"""One file for each format: what a file is, told by content, and how it is read safely."""

from compressc.frontend.formats.recognise import Format, recognise

__all__ = ["Format", "recognise"]
