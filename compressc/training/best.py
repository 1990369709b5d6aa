"""Keeping the best state of modules."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Mapping

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.ir.sharing import bytes_of
from compressc.training.sharding import whole, write

#: Higher is better. A tuple is compared from its first number on: (accuracy, -loss), say.
Score = float | tuple[float, ...]

#: Bytes of a state that may stay in memory; a larger one lies in a temporary file.
IN_MEMORY = 1 << 24
#: Bytes of a state start at multiples of this in the file.
_ALIGNED = 64


class BestState:
    """The parameters and buffers that modules had when they scored best.

    The copy is a nameless temporary file: training holds weights, gradients and two moments, and a
    fifth set would be held for one moment at the end. All states are of one size, so a disk that
    is too small shows at the first, before any work.

    Args:
        tensors: all of them by name; they are read and written in place.

    Attributes:
        score: the best finite score so far, None before there is one.
        epoch: when that was, counted from 1; 0 is the start.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.score: tuple[float, ...] | None = None
        self.epoch = 0
        self._live = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  (see close)

    def offer(self, score: Score, epoch: int) -> bool:
        """Keep the state where the score is finite and above all before; equal ones stay first.

        Raises:
            CompresscError: CC600 where the temporary folder has no room for it.
        """
        numbers = score if isinstance(score, tuple) else (score,)
        if not all(map(math.isfinite, numbers)):
            return False
        if self.score is not None and numbers <= self.score:
            return False
        self.take(self._live, numbers, epoch)
        return True

    def take(self, tensors: Mapping[str, Tensor], score: tuple[float, ...], epoch: int) -> None:
        """Keep these tensors, of the same names and shapes, as the best.

        Those that are spread over processes are gathered: every process has all of the best state.

        Raises:
            CompresscError: CC600 where the temporary folder has no room for them.
        """
        try:
            for place, (name, live) in zip(self._places(), self._live.items(), strict=True):
                plain = whole(tensors[name].detach()).to("cpu", live.dtype).contiguous()
                self._file.seek(place)
                self._file.writelines(bytes_of(plain))
            self._file.flush()
        except OSError as error:
            raise CompresscError(
                "CC600",
                "the best state of a training must fit into the temporary folder",
                got=str(error),
                where=tempfile.gettempdir(),
                hint="make room, or set TMPDIR",
            ) from error
        self.score, self.epoch = score, epoch

    def tensors(self) -> dict[str, Tensor]:
        """What is kept, on the CPU; a large one is mapped, not read. Empty before there is one."""
        if self.score is None or not self._live:
            return {}
        self._file.seek(0)
        size = sum(_padded(tensor) for tensor in self._live.values())
        content = (
            bytearray(self._file.read())
            if size <= IN_MEMORY
            else mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        )
        found = {}
        for place, (name, live) in zip(self._places(), self._live.items(), strict=True):
            flat = torch.frombuffer(content, dtype=live.dtype, count=live.numel(), offset=place)
            found[name] = flat.view(live.shape)
        return found

    def restore(self, into: Mapping[str, Tensor] | None = None) -> None:
        """Write the best state back in place; nothing happens where there is none.

        Args:
            into: other tensors of these names to write to; some of them are enough.
        """
        targets = self._live if into is None else into
        for name, tensor in self.tensors().items():
            if name in targets:
                write(targets[name], tensor)

    def close(self) -> None:
        """Give the room back; nothing can be kept or restored any more."""
        self._file.close()

    def _places(self) -> list[int]:
        """Where the bytes of each tensor begin."""
        places, place = [], 0
        for tensor in self._live.values():
            places.append(place)
            place += _padded(tensor)
        return places


def _padded(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNED) * _ALIGNED
