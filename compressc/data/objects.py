"""The protocol for data from elsewhere.

Any object with the attributes `train`, `calibration` and `test`, each a `Split` or a pair
`(inputs, labels)`. `inputs` is one array or a tuple of arrays (one for each input of the model),
`labels` an array of integers or floats, or None; arrays are tensors or numpy arrays.
"""

from __future__ import annotations

from compressc.data.arrays import bad, to_labels, to_tensor
from compressc.data.checks import check_labels, check_samples
from compressc.data.dataset import PARTS, Dataset
from compressc.data.source import Source
from compressc.data.split import Split


def as_dataset(obj: object, name: str) -> Dataset:
    """Make a `Dataset` of any object that follows the protocol at the head of this module.

    Args:
        obj: a `Dataset` (returned as it is), or an object with `train`, `calibration` and `test`.
        name: what to call it in errors and reports.

    Raises:
        CompresscError: CC300 where the object does not follow the protocol.
    """
    if isinstance(obj, Dataset):
        return obj
    missing = [part for part in PARTS if not hasattr(obj, part)]
    if missing:
        raise bad(
            "a data set has the attributes train, calibration and test",
            f"{type(obj).__name__} without {', '.join(missing)}",
            name,
            "return compressc.data.Dataset(name, train, calibration, test)",
        )
    parts = [_as_source(getattr(obj, part), f"{name}.{part}") for part in PARTS]
    return Dataset(name, *parts)


def _as_source(value: object, where: str) -> Source:
    if isinstance(value, Source):
        return value
    if not (isinstance(value, tuple) and len(value) == 2):
        raise bad(
            "each part of a data set is a Split or a pair (inputs, labels)",
            type(value).__name__ + (f" of {len(value)}" if isinstance(value, tuple) else ""),
            where,
            "labels may be None",
        )
    inputs, labels = value
    if not isinstance(inputs, tuple | list):
        inputs = (inputs,)
    tensors = tuple(to_tensor(x, f"{where}, input {i}") for i, x in enumerate(inputs))
    check_samples(tensors, where)
    if labels is None:
        return Split(tensors)
    classes = to_labels(labels, f"the labels of {where}")
    check_labels(classes, int(tensors[0].shape[0]), where)
    return Split(tensors, classes)
