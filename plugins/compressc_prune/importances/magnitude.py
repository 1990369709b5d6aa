"""`magnitude`: the name that `l2` had first."""

from __future__ import annotations

from typing import ClassVar

from compressc_prune.importances.l2 import L2


class Magnitude(L2):
    """Sum of squared weights, as `l2`."""

    name: ClassVar[str] = "magnitude"
