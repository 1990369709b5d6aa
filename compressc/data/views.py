"""Views of samples: what augmentation makes is a function of seed, view and position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compressc.data.order import mixed
from compressc.data.source import Digest, Source, Standing
from compressc.data.split import Split
from compressc.errors import CompresscError
from compressc.pipeline import Request, View
from compressc.plugins import AUGMENTATIONS, Group
from compressc.spec import Configured


@dataclass(frozen=True)
class Draw:
    """Random numbers for the samples of a batch, which no other batch changes.

    Attributes:
        view: of the samples.
        positions: int64 `[k]` in the source.
        stream: numbers of another stream are independent.
    """

    view: View
    positions: Tensor
    stream: int = 0

    def seeds(self, which: int = 0) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """A seed for each sample, uint64 `[k]`; `which` counts what is drawn for it."""
        words = self.positions.numpy().astype(np.uint64)
        return mixed(self.view.seed, self.view.number, words, self.stream, which)

    def uniform(self, which: int = 0) -> Tensor:
        """A number in [0, 1) for each sample, float64 `[k]`."""
        return torch.from_numpy((self.seeds(which) >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def integer(self, low: int, high: int, which: int = 0) -> Tensor:
        """An integer in low..high for each sample, int64 `[k]`."""
        return low + (self.uniform(which) * (high - low + 1)).long()


class Augmentation(Configured, ABC):
    """A way to change samples that leaves their meaning. Options are fields, as of a pass.

    Entry points of the group `compressc.augmentations`.
    """

    entry_points: ClassVar[Group] = AUGMENTATIONS

    @abstractmethod
    def apply(self, batch: Split, draw: Draw) -> Split:
        """Other samples in place of those of a batch: as many, of the same shapes and dtypes.

        Args:
            batch: on the CPU; its tensors may not be written.
            draw: the only source of chance.
        """

    def identity(self) -> str:
        """What the result depends on, beside the samples."""
        return f"{self.cache_key()}"


class Augmented(Standing):
    """A source whose samples differ from view to view.

    Args:
        whole: the samples as they are, which a request without a view gets.
        augmentations: applied in this order.
        where: what to call it in errors.
    """

    def __init__(self, whole: Source, augmentations: Sequence[Augmentation], where: str) -> None:
        super().__init__(whole)
        self.augmentations, self.where = tuple(augmentations), where
        self.select(torch.arange(min(2, len(whole))), View(0, 0))  # one that cannot work shows now

    @property
    def has_views(self) -> bool:
        """It does."""
        return True

    def select(self, positions: Tensor, view: View | None = None) -> Split:
        """The samples at the positions int64 `[k]`, as that view has them.

        Raises:
            CompresscError: CC302 where augmentation makes NaN of them, or another shape.
        """
        return self._viewed(self.whole.select(positions, view), positions, view)

    def stream(self, requests: Iterable[Request]) -> Iterator[Split]:
        """As the whole reads them, each batch by its view."""
        asked: deque[Request] = deque()

        def told() -> Iterator[Request]:
            for request in requests:
                asked.append(request)
                yield request

        for batch in self.whole.stream(told()):
            yield self._viewed(batch, *asked.popleft())

    def identify(self, part: str, digest: Digest) -> None:
        """What the whole is, and what is made of it."""
        self.whole.identify(part, digest)
        for augmentation in self.augmentations:
            digest.update(augmentation.identity().encode())

    def _viewed(self, batch: Split, positions: Tensor, view: View | None) -> Split:
        if view is None:
            return batch
        for stream, augmentation in enumerate(self.augmentations):
            made = augmentation.apply(batch, Draw(view, positions, stream))
            self._check(made, batch, augmentation, positions)
            batch = made
        return batch

    def _check(self, made: Split, before: Split, by: Augmentation, positions: Tensor) -> None:
        """Shapes and dtypes stay, and so do numbers."""
        where = f"{self.where}, {by.text}"
        ours, theirs = (pytree.tree_leaves((s.inputs, s.labels)) for s in (made, before))
        forms = [
            [(x.dtype, list(x.shape)) for x in side if x is not None] for side in (ours, theirs)
        ]
        if forms[0] != forms[1]:
            wanted = f"augmentation keeps shapes and dtypes, {_text(forms[1])}"
            raise CompresscError("CC302", wanted, got=_text(forms[0]), where=where)
        for new, old in zip(made.inputs, before.inputs, strict=True):
            if new.is_floating_point() and not bool(
                (torch.isfinite(new) | ~torch.isfinite(old)).all()
            ):
                rows = (~torch.isfinite(new)).flatten(1).any(1).nonzero().flatten()
                raise CompresscError(
                    "CC302",
                    "augmented samples are finite numbers",
                    got="NaN or infinity",
                    where=f"{where}, sample {int(positions[rows[0]])}",
                    hint="look for a logarithm of zero or a division by zero",
                )


def _form(split: Split) -> list[tuple[torch.dtype, list[int]]]:
    leaves = pytree.tree_leaves((split.inputs, split.labels))
    return [(x.dtype, list(x.shape)) for x in leaves if x is not None]


def _text(form: list[tuple[torch.dtype, list[int]]]) -> str:
    return ", ".join(f"{str(dtype).removeprefix('torch.')}{shape}" for dtype, shape in form)
