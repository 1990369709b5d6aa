"""`Dataset`: the parts of what a run learns from and is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from compressc.data.arrays import bad
from compressc.data.checks import check_alike, check_values, shapes
from compressc.data.source import Source
from compressc.data.split import Split
from compressc.errors import CompresscError
from compressc.strangers import reading

#: The parts that every data set has; `validation` is there where the data bring one.
PARTS = ("train", "calibration", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """`train` to learn from, `calibration` for ranges, `test` to be judged by.

    `calibration` may be a part of `train`; `test` must not be.

    Attributes:
        name: for the report and for errors.
        validation: what choices are made by; where there is none, a share of `train` is held out.

    Raises:
        CompresscError: CC300 where the parts do not fit together, hold NaN or infinity, or hold
            a label that is no class index.
    """

    name: str
    train: Source
    calibration: Source
    test: Source
    validation: Source | None = None

    def __post_init__(self) -> None:
        probe = self.train.take(1).inputs
        for part, source in self.parts.items():
            where = f"{self.name}.{part}"
            if isinstance(source, Split):
                check_values(source.inputs, source.labels, where)
            check_alike(source.take(1).inputs, probe, where)

    @property
    def parts(self) -> Mapping[str, Source]:
        """Name -> part, of those there are."""
        found = {part: getattr(self, part) for part in PARTS}
        return found if self.validation is None else {**found, "validation": self.validation}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over what every part is; not over the name."""
        digest = hashlib.sha256()
        for part, source in self.parts.items():
            source.identify(part, digest)
        return digest.hexdigest()

    def ordered(self, inputs: Sequence[str]) -> Dataset:
        """The same samples with their inputs in the order of a model's, where they have names.

        One input is the model's one, whatever it is called.

        Args:
            inputs: the names of the model's inputs.

        Raises:
            CompresscError: CC301 where the names are not the model's.
        """
        names = self.train.names
        if names is None or len(names) == len(inputs) == 1:
            return self
        if set(names) != set(inputs):
            raise CompresscError(
                "CC301",
                f"the inputs of the data are called as the model's: {', '.join(inputs)}",
                got=", ".join(names),
                where=self.name,
                hint=_renaming(names, inputs),
            )
        places = [names.index(name) for name in inputs]
        return self.cast(lambda tensors: tuple(tensors[place] for place in places))

    def without(self, inputs: Sequence[str]) -> Dataset:
        """The same samples without some of their inputs, which go by name, or as `x0`, `x1`, ...

        Raises:
            CompresscError: CC301 where there is no such input, or none is left.
        """
        names = self._names
        places = [place for place, name in enumerate(names) if name not in inputs]
        missing = [name for name in inputs if name not in names]
        if missing or not places:
            wanted = "inputs of the data that the model does not take, beside those that it does"
            got = f"{', '.join(missing)}; there are" if missing else "all there are:"
            raise CompresscError("CC301", wanted, got=f"{got} {', '.join(names)}", where=self.name)
        return self.cast(lambda tensors: tuple(tensors[place] for place in places))

    def beside(self, inputs: Sequence[str], others: Sequence[str]) -> Dataset:
        """The same samples with the inputs of a model in front, and others behind them.

        Args:
            inputs: the names of the model's inputs; by them, or in order, as `ordered` has it.
            others: names of those that the model does not take.

        Raises:
            CompresscError: CC301 where what is left beside `others` is not what the model takes.
        """
        names, rest = self._names, [name for name in self._names if name not in others]
        if len(rest) != len(inputs) or (len(rest) > 1 and set(rest) - set(inputs)):
            wanted = f"beside {', '.join(others)} the data have the model's inputs: "
            got = ", ".join(rest)
            raise CompresscError("CC301", wanted + ", ".join(inputs), got=got, where=self.name)
        order = [*(rest if len(rest) == 1 else inputs), *others]
        places = [names.index(name) for name in order]
        return self.cast(lambda tensors: tuple(tensors[place] for place in places))

    @property
    def _names(self) -> tuple[str, ...]:
        """Of the inputs; `x0`, `x1`, ... where they go by their order."""
        names = self.train.names
        return names or tuple(f"x{i}" for i in range(len(self.train.take(1).inputs)))

    def map(self, function: Callable[..., Any]) -> Dataset:
        """The same samples with their inputs changed, batch by batch, as they are read.

        Args:
            function: from the inputs of a batch, tensors `[b, ...]` each, to one tensor or a tuple
                of them; what becomes of a sample may not depend on the others.

        Raises:
            CompresscError: CC300 where it fails, or makes more or fewer samples.
        """
        return self.cast(partial(_mapped, function))

    def cast(self, change: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Dataset:
        """The same samples with inputs in other dtypes; itself where nothing changes."""
        changed: dict[int, Source] = {}
        for source in self.parts.values():
            changed.setdefault(id(source), source.cast(change))
        parts = {part: changed[id(source)] for part, source in self.parts.items()}
        same = all(parts[part] is source for part, source in self.parts.items())
        return self if same else Dataset(self.name, **parts)

    @property
    def hashed_whole(self) -> bool:
        """Whether the fingerprint is of all of the content; else of sizes, times and samples."""
        return all(source.hashed_whole for source in self.parts.values())

    @property
    def has_labels(self) -> bool:
        """Whether both `train` and `test` carry labels."""
        return self.train.has_labels and self.test.has_labels


def _mapped(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    where = getattr(function, "__name__", "the function")
    with reading("CC300", "the function of Dataset.map changes a batch", where):
        made = function(*inputs)
    tensors = made if isinstance(made, tuple) else (made,)
    wanted = len(inputs[0])
    if not all(isinstance(x, Tensor) and x.ndim and len(x) == wanted for x in tensors):
        given = [x for x in tensors if isinstance(x, Tensor)]
        got = shapes(tuple(given)) if len(given) == len(tensors) else "something else than tensors"
        raise bad(f"Dataset.map makes as many samples, {wanted}", got, where, "")
    check_values(tensors, None, where)
    return tensors


def _renaming(names: Sequence[str], inputs: Sequence[str]) -> str:
    """What to do about names that are not the model's."""
    spare = [name for name in names if name not in inputs]
    missing = [name for name in inputs if name not in names]
    if not missing:
        return f"leave {', '.join(spare)} out of the data"
    if not spare:
        return f"give {', '.join(missing)} as well"
    return f"rename {', '.join(spare)}; {', '.join(missing)} is missing"
