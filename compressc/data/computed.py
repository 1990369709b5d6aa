"""`Computed`: samples that a user's code makes, one by one, in this process or in workers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from compressc.data.arrays import as_targets, bad
from compressc.data.checks import NO_LABEL, check_samples, check_values
from compressc.data.generators import generators_kept, seed_all
from compressc.data.order import mixed
from compressc.data.padding import filling, joined, may_differ
from compressc.data.samples import Sample, sample_of
from compressc.data.source import Digest, Source
from compressc.data.split import Split
from compressc.errors import CompresscError
from compressc.pipeline import Request, View
from compressc.strangers import reading

#: From samples to a batch, as a `DataLoader` calls it.
Collate = Callable[[list[Any]], Any]
_WORKERS = "--workers 0 makes samples in the process itself, and shows what ends a worker"
#: Samples that are hashed, and those that two views of are compared, spread evenly.
_SAMPLED, _COMPARED = 64, 4


class Computed(Source):
    """Any object with `__len__` and `__getitem__`; `compressc.data.samples` says what samples are.

    Where samples are of several lengths, those of a batch are padded; see `compressc.data.padding`.

    Each sample is made with the random generators of torch, numpy and Python seeded by the view and
    its position: a data set that augments by itself gives the same views again.

    Args:
        dataset: the object.
        where: what to call it in errors.
        collate: makes a batch of a list of samples, in place of stacking and padding.
        workers: processes that make samples ahead; 0 for none.

    Raises:
        CompresscError: CC300 where it has no sample, or a sample holds no numbers; CC302 where a
            sample cannot be made.
    """

    def __init__(
        self, dataset: Any, where: str, collate: Collate | None = None, workers: int = 0
    ) -> None:
        self.dataset, self.where, self.collate, self.workers = dataset, where, collate, workers
        with reading("CC300", "a data set has a length", where, "give it __len__"):
            self.total = len(dataset)
        if self.total < 1:
            raise CompresscError(
                "CC300", "a part of the data holds at least one sample", got="none", where=where
            )
        self._form: Any = None  # of the first sample, or batch
        self.pad = _pad_of(dataset, where)
        self.first = self._joined([0], None)

    def __len__(self) -> int:
        return self.total

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the inputs, where they go by name."""
        return self.first.names

    @property
    def has_labels(self) -> bool:
        """Whether samples have a target."""
        return self.first.target is not None

    @property
    def hashed_whole(self) -> bool:
        """Some samples alone are hashed: all of them may take an hour to make."""
        return False

    @cached_property
    def has_views(self) -> bool:
        """Whether samples that are made twice differ: the data set augments by itself."""
        positions = self._spread(_COMPARED)
        one, other = (self._joined(positions, View(0, number)).leaves for number in (1, 2))
        return not all(map(torch.equal, one, other))

    def select(self, positions: Tensor, view: View | None = None) -> Split:
        """The samples at the positions int64 `[k]`, in that order.

        Raises:
            CompresscError: CC302 where one cannot be made, or is not like the first.
        """
        return self.read(positions.tolist(), view)

    def stream(self, requests: Iterable[Request]) -> Iterator[Split]:
        """`select` for one request after another, made ahead where there are workers.

        Raises:
            CompresscError: CC302, also where a worker dies.
        """
        if not self.workers:
            yield from super().stream(requests)
            return
        loader: Any = DataLoader(
            _Fetch(self),  # type: ignore[arg-type]
            sampler=((positions.tolist(), view) for positions, view in requests),
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=_own_garbage,
            generator=torch.Generator(),  # else it would draw from the global one
            multiprocessing_context="fork",
        )
        batches = iter(loader)
        while True:
            with reading("CC302", "the workers that make samples live", self.where, _WORKERS):
                batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch, CompresscError):
                raise batch
            yield batch

    def all_labels(self) -> Tensor | None:
        """The attribute `targets` of the data set, where it is what its samples say."""
        try:
            known = torch.as_tensor(np.asarray(self.dataset.targets))
        except (AttributeError, ValueError, TypeError, RuntimeError):
            return None
        if len(known) != self.total or known.ndim != 1 or known.is_floating_point():
            return None
        few = torch.tensor(self._spread(_COMPARED))
        said = self.select(few).labels
        same = isinstance(said, Tensor) and torch.equal(said, known[few].to(said.dtype))
        return known.to(torch.int64) if same else None

    def identify(self, part: str, digest: Digest) -> None:
        """How many samples there are, whose class they are of, and some of them."""
        digest.update(f"{part}:{type(self.dataset).__qualname__}:{self.total};".encode())
        for position in self._spread(_SAMPLED):
            for leaf in self._joined([position], None).leaves:
                digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
                digest.update(leaf.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def read(self, positions: Sequence[int], view: View | None) -> Split:
        """A batch, checked."""
        batch = self._joined(positions, view)
        labels = None
        if batch.target is not None:
            labels = as_targets(batch.target, f"the labels of {self.where}")
        check_values(batch.inputs, labels, self.where)
        return Split.of(batch.inputs, labels)

    def _joined(self, positions: Sequence[int], view: View | None) -> Sample:
        self._check_length()
        with generators_kept():
            made = [self._make(position, view) for position in positions]
        if self.collate is None:
            samples = [sample_of(m, self._at(p)) for p, m in zip(positions, made, strict=True)]
            return self._stacked(samples, positions)
        with reading("CC302", "collate makes a batch of samples", self._at(positions[0])):
            batch = sample_of(self.collate(made), self.where)
        check_samples(batch.inputs, f"collate of {self.where}")
        return self._like_first(batch, len(positions))

    def _make(self, position: int, view: View | None) -> Any:
        view = view or View(0, 0)
        seed_all(int(mixed(view.seed, view.number, position)[0]))
        hint = "run the data set by itself to see the whole traceback"
        with reading("CC302", "a sample can be made", self._at(position), hint):
            return self.dataset[position]

    def _stacked(self, samples: list[Sample], positions: Sequence[int]) -> Sample:
        first, forms = samples[0], [self._form_of(sample) for sample in samples]
        self._form = self._form or forms[0]
        for form, position in zip(forms, positions, strict=True):
            if form != self._form:
                raise _unlike(form, self._form, self._at(position))
        columns = zip(*(sample.inputs for sample in samples), strict=True)
        fills = self._fills(first)
        inputs = tuple(joined(rows, fill) for rows, fill in zip(columns, fills, strict=True))
        target = first.target
        if target is not None:
            trees = [sample.target for sample in samples]
            fill = None if set(fills) == {None} else NO_LABEL
            target = pytree.tree_map(lambda *rows: joined(rows, fill), trees[0], *trees[1:])
        return Sample(inputs, target, first.names)

    def _fills(self, sample: Sample) -> list[int | None]:
        """What fills up each input."""
        names: Sequence[str | None] = sample.names or [None] * len(sample.inputs)
        return [
            filling(name, sample.names, self.pad) if may_differ(x) else None
            for name, x in zip(names, sample.inputs, strict=True)
        ]

    def _form_of(self, sample: Sample) -> Any:
        """What all samples have in common: not the lengths of what can be padded."""
        *layout, leaves = sample.form
        fills = self._fills(sample)
        can = [fill is not None for fill in fills]
        can += [any(can) and may_differ(leaf) for leaf in sample.leaves[len(can) :]]
        open_ = (
            (dtype, ("?", *shape[1:]) if free else shape)
            for (dtype, shape), free in zip(leaves, can, strict=True)
        )
        return *layout, tuple(open_)

    def _like_first(self, batch: Sample, count: int) -> Sample:
        """Batches of a user's own making may be of several sizes, not of several ranks."""
        lengths = {len(leaf) if leaf.ndim else 0 for leaf in batch.leaves}
        if lengths != {count}:
            got = f"rows {sorted(lengths)}"
            raise CompresscError(
                "CC302", f"collate makes {count} rows of {count} samples", got=got, where=self.where
            )
        *layout, leaves = batch.form
        form = (*layout, tuple((dtype, ("n", *"?" * (len(shape) - 1))) for dtype, shape in leaves))
        self._form = self._form or form
        if form != self._form:
            raise _unlike(form, self._form, f"collate of {self.where}")
        return batch

    def _check_length(self) -> None:
        with reading("CC302", "a data set has a length", self.where):
            now = len(self.dataset)
        if now != self.total:
            raise CompresscError(
                "CC302",
                f"the data set keeps its {self.total:,} samples",
                got=f"{now:,}",
                where=self.where,
                hint="leave the data as they are while a run reads them",
            )

    def _spread(self, count: int) -> list[int]:
        """Positions, evenly."""
        found: list[int] = np.unique(np.linspace(0, self.total - 1, count).astype(int)).tolist()
        return found

    def _at(self, position: int) -> str:
        return f"{self.where}, sample {position}"


class _Fetch:
    """What a worker process is asked: one request at a time; an error is an answer, too."""

    def __init__(self, source: Computed) -> None:
        self.source = source

    def __getitem__(self, request: tuple[list[int], View | None]) -> Split | CompresscError:
        try:
            return self.source.read(*request)
        except CompresscError as error:
            return error


def _own_garbage(worker: int) -> None:
    """What was garbage of the parent is not collected here: a loader's end looks for children."""
    gc.freeze()


def _as_it_is(batch: Any) -> Any:
    return batch


def _unlike(form: Any, wanted: Any, where: str) -> CompresscError:
    texts = []
    for names, count, tree, leaves in (wanted, form):
        listed = ", ".join(
            f"{str(dtype).removeprefix('torch.')}[{', '.join(map(str, shape))}]"
            for dtype, shape in leaves
        )
        named = f"{', '.join(names)}: " if names else f"{count} inputs: "
        texts.append(f"{named}{listed}" + ("" if tree is None else ", the target last"))
    return CompresscError(
        "CC302",
        f"all samples are like the first, {texts[0]}",
        got=texts[1],
        where=where,
        hint="pad them, or say what pads ids: an attribute `pad` of the data set",
    )


def _pad_of(dataset: Any, where: str) -> int | None:
    """The id that pads the samples of a data set, as it says by an attribute."""
    pad = getattr(dataset, "pad", None)
    if pad is None or callable(pad):
        return None
    if isinstance(pad, bool) or not isinstance(pad, int):
        raise bad("the attribute `pad` of a data set is an id", repr(pad), where, "pad = 0")
    return pad
