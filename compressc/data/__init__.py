"""Transfer sets: the data a run trains on, calibrates with and is judged by.

`open_dataset` turns what a user writes (`digits`, `file.npz`, `file.py:function`, or an object)
into a `Dataset`, whose parts are `Source`s. What is asked of a foreign object is said in
`compressc.data.objects`.
"""

from compressc.data.augmenting import augmented
from compressc.data.dataset import PARTS, Dataset
from compressc.data.objects import as_dataset
from compressc.data.opening import open_dataset, open_part
from compressc.data.source import Source
from compressc.data.split import Split
from compressc.data.views import Augmentation, Augmented

__all__ = [
    "PARTS",
    "Augmentation",
    "Augmented",
    "Dataset",
    "Source",
    "Split",
    "as_dataset",
    "augmented",
    "open_dataset",
    "open_part",
]
