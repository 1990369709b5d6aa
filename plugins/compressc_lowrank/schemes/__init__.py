"""The table of schemes: one file each. One more is one more row."""

from compressc_lowrank.schemes.scheme import Cost, Link, Ranks, Scheme, Spectrum, matrix_of
from compressc_lowrank.schemes.svd import Svd, singular_values

#: Every way to make thin layers of a wide one; of those legal for a layer, the first wins.
SCHEMES: tuple[Scheme, ...] = (Svd(),)

__all__ = [
    "SCHEMES",
    "Cost",
    "Link",
    "Ranks",
    "Scheme",
    "Spectrum",
    "matrix_of",
    "singular_values",
]
