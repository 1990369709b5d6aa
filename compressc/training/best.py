"""Keeping the best state of a module."""

from __future__ import annotations

import math
import tempfile

import torch
from torch import Tensor, nn

from compressc.errors import CompresscError

#: Higher is better. A tuple is compared from its first number on: (accuracy, -loss), say.
Score = float | tuple[float, ...]

#: Bytes of a state that may stay in memory; a larger one lies in a temporary file.
IN_MEMORY = 1 << 24


class BestState:
    """The parameters and buffers a module had when it scored best.

    The copy is a nameless temporary file: training holds weights, gradients and two moments, and a
    fifth set would be held for one moment at the end. All states are of one size, so a disk that
    is too small shows at the first, before any work.

    Attributes:
        score: the best finite score so far, None before there is one.
        epoch: when that was, counted from 1; 0 is the start.
    """

    def __init__(self, module: nn.Module) -> None:
        self.score: tuple[float, ...] | None = None
        self.epoch = 0
        self._module = module
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
        self._write()
        self.score, self.epoch = numbers, epoch
        return True

    def restore(self) -> None:
        """Write the best state back in place; nothing happens where there is none."""
        if self.score is None:
            return
        self._file.seek(0)
        with torch.no_grad():
            for tensor in self._tensors():
                read = torch.empty(tensor.nbytes, dtype=torch.uint8)
                self._file.readinto(read.numpy().data)
                tensor.copy_(read.view(tensor.dtype).view(tensor.shape))

    def close(self) -> None:
        """Give the room back; nothing can be kept or restored any more."""
        self._file.close()

    def _write(self) -> None:
        try:
            self._file.seek(0)
            for tensor in self._tensors():
                plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
                self._file.write(plain.numpy().data)
        except OSError as error:
            raise CompresscError(
                "CC600",
                "the best state of a training must fit into the temporary folder",
                got=str(error),
                where=tempfile.gettempdir(),
                hint="make room, or set TMPDIR",
            ) from error

    def _tensors(self) -> list[Tensor]:
        """Not `state_dict`: that leaves out the buffers a module declares non-persistent.

        Empty ones have no bytes to keep.
        """
        found = [*self._module.parameters(), *self._module.buffers()]
        return [tensor for tensor in found if tensor.numel()]
