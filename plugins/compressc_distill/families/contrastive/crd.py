"""`crd`: each sample is told from many others, which are remembered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.distillation import Seen, Unreduced
from compressc_distill.relations import COPIES, RelationObjective, unit


class Crd(RelationObjective):
    """How well a critic tells the pair of a sample's two vectors from pairs of unlike samples.

    Both vectors go through linear maps to `size` numbers of length 1, which are learned and dropped
    in the end. The latest image of every training sample is remembered, on both sides, in the
    checkpoint; `negatives` of them are drawn for each sample. Epochs are compared by how well a
    vector's other one is found among those of its batch, which needs no memory.
    """

    name: ClassVar[str] = "crd"
    formula: ClassVar[str] = (
        "mean_i sum over both sides of -log h(s_i, t_i) - sum_j log(1 - h(s_i, t_j)), "
        "h = e / (e + N/M), e = exp(s.t / T) / Z, N others of M samples"
    )
    paper: ClassVar[str] = (
        "Tian et al. 2020, arXiv 1910.10699, equations 18 and 19; the positive pair is that of the "
        "batch, where the authors' code takes one side of it from memory"
    )
    default_weight: ClassVar[float] = 0.8
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType({"repetition": COPIES})

    T: Annotated[float, Field(gt=0, le=1000)] = 0.07
    """Temperature of the critic."""
    negatives: Annotated[int, Field(ge=1, le=1 << 16)] = 1024
    """How many remembered samples each one is told from, drawn anew in each step."""
    size: Annotated[int, Field(ge=2, le=1 << 14)] = 128
    """Numbers of an image."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the old image that stays in memory."""

    def module(self, seen: Seen) -> nn.Module:
        """The maps and the memory."""
        ours, theirs = self.sides(seen)
        return Memory(seen.samples, ours.shape[1], theirs.shape[1], self.size)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each sample."""
        own = seen.own
        if not isinstance(own, Memory):
            raise ValueError("crd needs the module that it made")
        images = tuple(unit(f(x)) for f, x in zip(own.maps, self.sides(seen), strict=True))
        learning = own.training and torch.is_grad_enabled()  # else epochs are compared
        if not learning or seen.positions is None or own.samples < 2:
            return Unreduced("samples", [self._found(*images)])
        pairs = (images[0] * images[1]).sum(-1) / self.T
        others = own.others(seen.positions, self.negatives)
        values = torch.zeros_like(pairs)
        for side, image in enumerate(images):
            remembered = own.banks[1 - side][others].to(image.dtype)
            unlike = torch.einsum("bd,bnd->bn", image, remembered) / self.T
            values = values + own.critic(side, pairs, unlike)
        own.remember(seen.positions, images, self.momentum)
        return Unreduced("samples", [values])

    def _found(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Cross entropy of finding the pair in the batch, from both sides, for each sample."""
        logits = ours @ theirs.mT / self.T
        first, second = (logits.log_softmax(dim).diagonal() for dim in (0, 1))
        return -(first + second)


class Memory(nn.Module):
    """Images of all training samples, of student and teacher; part of every checkpoint.

    Args:
        samples: how many; 0 where nobody knows: then nothing is remembered.
        student, teacher: widths.
        size: of an image.
    """

    images_of_student: Tensor
    images_of_teacher: Tensor
    scale: Tensor

    def __init__(self, samples: int, student: int, teacher: int, size: int) -> None:
        super().__init__()
        self.samples = samples
        self.maps = nn.ModuleList([nn.Linear(student, size), nn.Linear(teacher, size)])
        for name in ("images_of_student", "images_of_teacher"):
            self.register_buffer(name, unit(torch.randn(samples, size)))
        self.register_buffer("scale", torch.zeros(2))

    @property
    def banks(self) -> tuple[Tensor, Tensor]:
        """Of student and teacher, `[samples, size]`."""
        return self.images_of_student, self.images_of_teacher

    def others(self, positions: Tensor, count: int) -> Tensor:
        """Samples other than those at the positions i64[b], drawn at random, i64[b, count]."""
        drawn = torch.randint(self.samples - 1, (len(positions), count))
        at = positions.cpu()[:, None]
        return (drawn + (drawn >= at)).to(self.scale.device)

    def critic(self, side: int, pairs: Tensor, unlike: Tensor) -> Tensor:
        """The loss of each sample by the logits of its pair `[b]` and of others `[b, n]`.

        Z is the mean of exp over the first batch, times the number of samples, and stays so.
        """
        count, total = unlike.shape[1], self.samples
        with torch.no_grad():
            every = torch.cat([pairs[:, None], unlike], 1).detach().flatten()
            if self.scale[side] == 0:  # the first batch
                self.scale[side] = every.logsumexp(0) - math.log(len(every)) + math.log(total)
            log_z = self.scale[side].to(pairs.dtype)
        noise = math.log(count / total)
        found = F.softplus(noise - (pairs - log_z))  # -log h
        return found + F.softplus(unlike - log_z - noise).sum(-1)  # -log(1 - h)

    @torch.no_grad()
    def remember(self, positions: Tensor, images: tuple[Tensor, ...], momentum: float) -> None:
        """Move what is remembered of the samples towards their images of now."""
        at = positions.to(self.scale.device)
        for bank, image in zip(self.banks, images, strict=True):
            bank[at] = unit(momentum * bank[at] + (1 - momentum) * image.to(bank.dtype))
