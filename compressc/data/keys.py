"""What the arrays of a file, a folder or a dict are, by their names.

`x`, or `x0`, `x1`, ... are inputs in the order of the model's; any other names are inputs of these
names. `y` (or `label`, `labels`, `target`, `targets`) is what is right. `_train`, `_test`,
`_calibration` and `_validation` behind a name tell which part an array belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from compressc.data.arrays import bad
from compressc.data.checks import check_labels, check_samples

KEYS = "x (or x0, x1, ..., or the names of the model's inputs) and y, or x_train, y_train, x_test, "
KEYS += "y_test"
#: Names for what is right.
LABELS = ("y", "label", "labels", "target", "targets")
#: Parts that a name may end in.
SUFFIXES = ("train", "test", "calibration", "validation")

_KEY = re.compile(rf"(?P<name>.+?)(_(?P<part>{'|'.join(SUFFIXES)}))?")
_NUMBERED = re.compile(r"x\d*")


@dataclass(frozen=True)
class PartKeys:
    """The keys of one part, in the order of the inputs.

    Attributes:
        inputs: keys of the inputs.
        labels: key of the labels, where there are any.
        names: of the inputs, where they go by name.
    """

    inputs: tuple[str, ...]
    labels: str | None
    names: tuple[str, ...] | None

    def check(self, heads: Mapping[str, Tensor], where: str) -> None:
        """See that the arrays fit together, by their headers alone.

        Raises:
            CompresscError: CC300.
        """
        check_samples(tuple(heads[k] for k in self.inputs), f"{where}, {' and '.join(self.inputs)}")
        if self.labels is not None:
            count = len(heads[self.inputs[0]])
            check_labels(heads[self.labels], count, f"{where}, {self.labels}")


def parts_of(keys: Collection[str], where: str) -> dict[str, PartKeys]:
    """Sort keys into parts: `""` alone for a set that is to be divided, or train, test and others.

    Raises:
        CompresscError: CC300 for keys that contradict each other.
    """
    _refuse_misspelt(keys, where)
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        matched = _KEY.fullmatch(key)
        assert matched is not None
        found.setdefault(matched["part"] or "", {})[matched["name"]] = key
    listed = ", ".join(sorted(keys)) or "none"
    hint = f"the keys are {KEYS}"
    if "" in found and len(found) > 1:
        wanted = "data are one undivided set, or a train and a test part"
        raise bad(wanted, listed, where, hint)
    if found.keys() != {""} and not {"train", "test"} <= found.keys():
        raise bad("data have the key x, or x_train and x_test", f"keys {listed}", where, hint)
    return {part: _part(part, names, listed, where) for part, names in sorted(found.items())}


def _refuse_misspelt(keys: Collection[str], where: str) -> None:
    """`X` is an `x` that was not meant as the name of an input."""
    for key in keys:
        plain = key.strip().lower()
        name = plain.removesuffix("_train").removesuffix("_test")
        if plain != key and (_NUMBERED.fullmatch(name) or name in LABELS):
            wanted = f"the keys of the data are {KEYS}"
            raise bad(wanted, f"key {key!r}", where, f"rename it to {plain!r} or leave it out")


def _part(part: str, names: Mapping[str, str], listed: str, where: str) -> PartKeys:
    labels = [names[name] for name in LABELS if name in names]
    inputs = {name: key for name, key in names.items() if name not in LABELS}
    numbered = [name for name in inputs if _NUMBERED.fullmatch(name)]
    wanted, got, hint = "", f"keys {listed}", f"the keys are {KEYS}"
    suffix = part and f"_{part}"
    if len(labels) > 1:
        wanted, got = "data have one array of labels", " and ".join(labels)
    elif not inputs:
        wanted = f"data have the key x{suffix}, or x0{suffix}, x1{suffix}, ... without a gap"
    elif numbered and len(numbered) < len(inputs):
        other = next(name for name in inputs if name not in numbered)
        wanted, got = f"the keys of the data are {KEYS}", f"key {inputs[other]!r}"
        hint = "rename it or leave it out"
    elif numbered and set(numbered) not in ({"x"}, {f"x{i}" for i in range(len(numbered))}):
        wanted = f"data have the key x{suffix}, or x0{suffix}, x1{suffix}, ... without a gap"
    if wanted:
        raise bad(wanted, got, where, hint)
    order = sorted(inputs, key=lambda name: int(name[1:] or 0)) if numbered else list(inputs)
    return PartKeys(
        tuple(inputs[name] for name in order),
        labels[0] if labels else None,
        None if numbered else tuple(order),
    )
