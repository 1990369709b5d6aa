"""Augmentation of images `[n, channels, height, width]`: flip, shift and crop.

Every image input of a sample, and every target of the same height and width (a mask for each
pixel), moves the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.utils import _pytree as pytree

from compressc.data.checks import NO_LABEL, shapes
from compressc.data.split import Split
from compressc.data.views import Augmentation, Draw
from compressc.errors import CompresscError


class Flip(Augmentation):
    """Turn every other image left to right."""

    name: ClassVar[str] = "flip"

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the samples that are turned."""

    def apply(self, batch: Split, draw: Draw) -> Split:
        """Turned where a number is below the share."""
        turned = draw.uniform() < self.share

        def move(x: Tensor) -> Tensor:
            return torch.where(turned.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)

        return moved(batch, move, self.name)


class Shift(Augmentation):
    """Move images by a few pixels; what comes in at the border is 0 (no label, in targets)."""

    name: ClassVar[str] = "shift"

    pixels: Annotated[int, Field(ge=1, le=4096)] = 2
    """The furthest that an image moves, up or down and left or right."""

    def apply(self, batch: Split, draw: Draw) -> Split:
        """Moved by whole pixels."""
        reach = self.pixels
        steps = [draw.integer(0, 2 * reach, which) for which in (0, 1)]

        def move(x: Tensor) -> Tensor:
            empty = 0 if x.is_floating_point() else NO_LABEL
            padded = F.pad(x, (reach,) * 4, value=empty)
            rows, columns = (
                torch.arange(size) + step[:, None]
                for size, step in zip(x.shape[-2:], steps, strict=True)
            )
            samples = torch.arange(len(x))[:, None, None]
            found = padded.movedim((-2, -1), (1, 2))[samples, rows[:, :, None], columns[:, None]]
            return found.movedim((1, 2), (-2, -1)).contiguous()

        return moved(batch, move, self.name)


class Crop(Augmentation):
    """Take a random window of each image and enlarge it to the size of the image."""

    name: ClassVar[str] = "crop"

    least: Annotated[float, Field(gt=0, le=1)] = 0.75
    """The smallest side of a window, as a share of the image's."""

    def apply(self, batch: Split, draw: Draw) -> Split:
        """Enlarged by interpolation; targets that are integers by the nearest pixel."""
        size = self.least + (1 - self.least) * draw.uniform(0)
        left, top = ((1 - size) * draw.uniform(which) for which in (1, 2))
        matrix = torch.zeros(len(batch), 2, 3)
        matrix[:, 0, 0] = matrix[:, 1, 1] = size.float()
        matrix[:, 0, 2], matrix[:, 1, 2] = (2 * x + size - 1 for x in (left, top))

        def move(x: Tensor) -> Tensor:
            image = x if x.ndim == 4 else x.unsqueeze(1)
            grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
            mode = "bilinear" if x.is_floating_point() else "nearest"
            seen = F.grid_sample(
                image.float(), grid, mode=mode, padding_mode="border", align_corners=False
            )
            return seen.reshape(x.shape).to(x.dtype)

        return moved(batch, move, self.name)


def moved(batch: Split, move: Callable[[Tensor], Tensor], name: str) -> Split:
    """The batch with its images, and the targets that lie over them, moved.

    Raises:
        CompresscError: CC301 where it holds no image of floats.
    """
    images = [x for x in batch.inputs if x.ndim == 4 and x.is_floating_point()]
    if not images:
        raise CompresscError(
            "CC301",
            f"augmentation '{name}' moves images, floats [n, channels, height, width]",
            got=shapes(batch.inputs),
            hint="augment=file.py:function is for other samples",
        )
    size = images[0].shape[-2:]

    def of_target(x: Any) -> Any:
        over = isinstance(x, Tensor) and x.ndim in (3, 4) and x.shape[-2:] == size
        return move(x) if over else x

    inputs = tuple(move(x) if x.ndim == 4 and x.shape[-2:] == size else x for x in batch.inputs)
    labels = None if batch.labels is None else pytree.tree_map(of_target, batch.labels)
    return Split.of(inputs, labels, batch.names)
