"""What a user's Python gives for data: arrays, map-style data sets, parts of them, whole data sets.

A part is a tensor or an array (inputs), a tuple whose last item is the labels (`(x, y)`,
`(x0, x1, y)`, `((x0, x1), None)`), a dict of arrays by name, anything with `__len__` and
`__getitem__` (a `torch.utils.data.Dataset`, a list of samples), a `DataLoader` (its data set,
`collate_fn` and workers; its order and batch size are not used) or a Hugging Face `Dataset`.

A data set is a part, which is divided, or parts: attributes or a dict with `train` and `test`, and
`calibration` and `validation` where there are such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import default_collate

from compressc.data.arrays import as_targets, bad, to_tensor
from compressc.data.checks import check_samples, check_targets, check_values
from compressc.data.columns import Columns
from compressc.data.computed import Computed
from compressc.data.dataset import Dataset
from compressc.data.files import IN_MEMORY
from compressc.data.hugging_face import Table, is_table
from compressc.data.keys import SUFFIXES, parts_of
from compressc.data.rows import ArrayColumn, Column
from compressc.data.samples import laid_out
from compressc.data.source import Source
from compressc.data.split import Split
from compressc.data.splitting import assemble_parts

_FORMS = "arrays, a torch Dataset or DataLoader, a Hugging Face Dataset, or parts of these"


def as_dataset(obj: object, name: str, workers: int = 0) -> Dataset:
    """Make a `Dataset` of any object that the head of this module speaks of.

    Args:
        obj: a `Dataset` (returned as it is), a part or parts.
        name: what to call it in errors and reports.
        workers: processes that make samples ahead, where they are made one by one.

    Raises:
        CompresscError: CC300 where the object is none of these, CC302 where a sample of it cannot
            be made.
    """
    if isinstance(obj, Dataset):
        return obj
    parts = _parts(obj, name)
    sources = {
        part: as_source(value, f"{name}.{part}" if part else name, workers)
        for part, value in parts.items()
    }
    return assemble_parts(name, sources, seed=0)


def _parts(obj: Any, name: str) -> dict[str, Any]:
    """Part -> what there is for it; `""` for a set that is to be divided."""
    if isinstance(obj, Mapping):
        if obj.keys() & set(SUFFIXES):
            found = dict(obj)
        else:
            return _parts_of_arrays(obj, name)
    elif _is_part(obj) or not hasattr(obj, "train"):
        return {"": obj}
    else:
        found = {part: getattr(obj, part) for part in SUFFIXES if hasattr(obj, part)}
    unknown = [str(part) for part in found if part not in SUFFIXES]
    missing = [part for part in ("train", "test") if part not in found]
    if unknown or missing:
        got = f"{type(obj).__name__} with {', '.join(map(str, found))}"
        hint = "name them so, or give one part alone: it is divided"
        raise bad(f"the parts of a data set are {', '.join(SUFFIXES)}", got, name, hint)
    return {part: value for part, value in found.items() if value is not None}


def _parts_of_arrays(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Arrays by key (`x_train`, ...), as in a file."""
    found: dict[str, Any] = {}
    for part, keys in parts_of([str(key) for key in arrays], name).items():
        inputs = tuple(arrays[key] for key in keys.inputs)
        named = inputs if keys.names is None else dict(zip(keys.names, inputs, strict=True))
        found[part] = (named, None if keys.labels is None else arrays[keys.labels])
    return found


def _is_part(obj: Any) -> bool:
    array = isinstance(obj, Source | Tensor | np.ndarray | tuple | torch_data.DataLoader)
    return array or (hasattr(obj, "__getitem__") and hasattr(obj, "__len__"))


def as_source(value: Any, where: str, workers: int = 0) -> Source:
    """One part.

    Raises:
        CompresscError: CC300, CC302 as for `as_dataset`.
    """
    if isinstance(value, Source):
        return value
    if isinstance(value, torch_data.DataLoader):
        own = value.collate_fn is not default_collate and value.batch_size is not None
        collate = value.collate_fn if own else None
        return _made(value.dataset, where, workers or value.num_workers, collate)
    if isinstance(value, Tensor | np.ndarray | tuple | Mapping):
        return _arrays(value, where)
    return _made(value, where, workers, None)


def _made(dataset: Any, where: str, workers: int, collate: Any) -> Source:
    """What makes samples; what is known to hold tensors is taken for those."""
    collate = collate or getattr(dataset, "collate", None)
    if isinstance(dataset, torch_data.Subset):
        positions = torch.as_tensor(list(dataset.indices), dtype=torch.int64)
        return _made(dataset.dataset, where, workers, collate).subset(positions)
    if isinstance(dataset, torch_data.TensorDataset) and collate is None:
        return _arrays(tuple(dataset.tensors), where)
    if is_table(dataset) and collate is None:
        return Table(dataset, where)
    if isinstance(dataset, torch_data.IterableDataset) or not _is_part(dataset):
        got = type(dataset).__name__
        hint = "give it __len__ and __getitem__: samples are read in an order of their own"
        raise bad(f"data are {_FORMS}", got, where, hint)
    if isinstance(dataset, str | bytes) or _is_list_of_numbers(dataset):
        raise bad(f"data are {_FORMS}", type(dataset).__name__, where, "use numpy.asarray")
    return Computed(dataset, where, collate, workers)


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)


def _arrays(value: Any, where: str) -> Source:
    """Arrays that hold all samples; a large map of a file stays one."""
    inputs, labels = laid_out(value)
    names = tuple(inputs) if isinstance(inputs, Mapping) else None
    items = tuple(inputs.values()) if isinstance(inputs, Mapping) else inputs
    arrays = [*items, *([] if labels is None else [labels])]
    if any(isinstance(x, np.memmap) and x.nbytes > IN_MEMORY for x in arrays):
        columns = [_column(x, where) for x in arrays]
        own = columns[len(items)] if labels is not None else None
        return Columns(tuple(columns[: len(items)]), own, where, names)
    tensors = tuple(to_tensor(x, f"{where}, input {i}") for i, x in enumerate(items))
    check_samples(tensors, where)
    if labels is not None:
        labels = as_targets(labels, f"the labels of {where}")
        check_targets(labels, len(tensors[0]), where)
    check_values(tensors, labels, where)
    return Split(tensors, labels, names)


def _column(value: Any, where: str) -> Column:
    return ArrayColumn(value if isinstance(value, np.ndarray) else to_tensor(value, where).numpy())
