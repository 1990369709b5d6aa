"""A learning rate from the weights: what a step may change of them.

A step of Adam moves each weight by about the learning rate, whatever the gradient (Kingma and Ba
2015, section 2.1): what a rate means depends on how large the weights are. What a step does to the
function of a net goes by the relative change of each layer; the same share, 0.01, trained
convolutional nets, GANs and transformers (Bernstein et al. 2020, "On the distance between two
neural networks and the stability of learning", and the notes on its code).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median

from torch import nn

from compressc.training.sharding import whole
from compressc.training.sparse import share_of, zeros_of

#: Share of a typical weight that a step at the peak changes.
RELATIVE_STEP = 0.01
#: Where no weight tells.
DEFAULT = 1e-3


def relative_rate(parameters: Iterable[nn.Parameter]) -> float:
    """The peak learning rate for AdamW: 0.01 of a typical weight.

    The size of a matrix or filter is the root of the mean square of its weights, of a sparse one of
    those that are not zero; the typical one is the median over all of them. 1e-3 where there are
    none, or where they are 0 or not finite.
    """
    matrices = [p for p in parameters if p.ndim > 1]
    zeros = zeros_of(matrices)
    sizes = [
        float(whole(p.detach()).float().square().mean().sqrt())
        / (math.sqrt(1 - share_of(zeros[p])) if p in zeros else 1.0)
        for p in matrices
    ]
    typical = median(sizes) if sizes else 0.0
    return RELATIVE_STEP * typical if 0 < typical < math.inf else DEFAULT
