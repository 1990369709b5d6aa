"""`python -m compressc`."""

from compressc.cli import entry

entry()
