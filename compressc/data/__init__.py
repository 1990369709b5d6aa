"""Transfer sets: the data a run trains on, calibrates with and is judged by.

`open_dataset` turns what a user writes (`digits`, `file.npz`, `file.py:function`, or an object)
into a `Dataset` of three `Split`s. What the protocol asks of a foreign object is in `as_dataset`.
"""

from compressc.data.dataset import PARTS, Dataset, Split, as_dataset
from compressc.data.opening import open_dataset

__all__ = ["PARTS", "Dataset", "Split", "as_dataset", "open_dataset"]
