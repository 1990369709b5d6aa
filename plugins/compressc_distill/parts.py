"""The parts of the data that a distillation takes: what is taught, and what is examined."""

from __future__ import annotations

from compressc.data.augmenting import parse_augmentations
from compressc.data.source import Source
from compressc.data.views import Augmented
from compressc.distillation import parts_of
from compressc.errors import CompresscError
from compressc.pipeline import Samples, TransferSet


def split(data: TransferSet, share: float, augment: str, seed: int) -> tuple[Samples, Samples]:
    """What is taught, and what is examined: the data's own part for it, or a share held out.

    Args:
        data: of the run.
        share: of the training part that is held out.
        augment: what is made of samples that are taught, or empty.
        seed: of the choice.

    Raises:
        CompresscError: CC107, CC102, CC103, CC300 or CC301 for an augmentation that cannot be had
            or does not fit; CC105 where the data are augmented already.
    """
    taught, examined = parts_of(data, share, seed)
    augmentations = parse_augmentations(augment)
    if not augmentations:
        return taught, examined
    if taught.has_views or not isinstance(taught, Source):
        wanted = "option 'augment' of pass 'distill' needs samples that are not augmented yet"
        raise CompresscError("CC105", wanted, hint="give either --augment or distill(augment=...)")
    return Augmented(taught, augmentations, "distill"), examined
