"""Every global random generator seeded around a pass, and given back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from compressc.errors import CompresscError


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global generators; the caller's come back afterwards."""
    if not 0 <= seed < 2**63:
        raise CompresscError("CC100", "a seed is an integer from 0 to 2**63 - 1", got=str(seed))
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
