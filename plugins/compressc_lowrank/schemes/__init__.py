"""The table of schemes: one file each. One more is one more row."""

from compressc_lowrank.schemes.embedding import Embedding
from compressc_lowrank.schemes.recurrent import RecurrentInput
from compressc_lowrank.schemes.scheme import Chain, Cost, Link, Ranks, Scheme, Spectrum
from compressc_lowrank.schemes.spatial import Spatial
from compressc_lowrank.schemes.svd import Channel, Svd
from compressc_lowrank.schemes.tucker import Tucker

#: Every way to make thin layers of a wide one. CP is none: four layers in a row for one, two of
#: them depthwise, which run no faster than what they replace (docs/decisions/0010-low-rank.md).
SCHEMES: tuple[Scheme, ...] = (Svd(), Channel(), Spatial(), Tucker(), Embedding(), RecurrentInput())

__all__ = ["SCHEMES", "Chain", "Cost", "Link", "Ranks", "RecurrentInput", "Scheme", "Spectrum"]
