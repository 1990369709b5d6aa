"""`kernel`: samples from which kernel regression tells the classes of the real ones."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from compressc_distill.families.condensing.condensed import Condensed


class Kernel(Condensed):
    """Change samples until ridge regression on them alone tells the classes of real ones.

    Minimized: half of the mean squared error of K(real, made) (K(made, made) + r I)^-1 y(made)
    against y(real), with classes as 1 and 0 about their mean; K is the neural tangent kernel of an
    infinitely wide network of fully connected layers with ReLU. Source: kernel inducing points,
    Nguyen, Chen and Lee 2021, arXiv 2011.00050, equation 7; labels stay as they are.

    Legal for one input of floats. Cost: for each of `steps` a matrix of `batch` times the made
    samples, and the solution of a system of the size of these.
    """

    name: ClassVar[str] = "kernel"

    depth: Annotated[int, Field(ge=0, le=20)] = 2
    """Hidden layers of the network that the kernel is of."""
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    """r, as a share of the mean of the diagonal of K(made, made)."""

    def loss(self, made: Tensor, real: Tensor, labels: Tensor, number: int) -> Tensor:
        """See `Condensed`."""
        classes = int(labels.max()) + 1
        known = torch.arange(classes, device=made.device).repeat_interleave(len(made) // classes)
        found = regression(made, real, targets(known, classes), self.depth, self.ridge)
        off: Tensor = found - targets(labels, classes)
        return off.pow(2).mean() / 2


def targets(labels: Tensor, classes: int) -> Tensor:
    """Classes as 1 and 0 about their mean, f64[n, classes]."""
    return F.one_hot(labels, classes).double() - 1 / classes


def regression(made: Tensor, real: Tensor, y: Tensor, depth: int, ridge: float) -> Tensor:
    """What kernel ridge regression on made samples says of real ones, f64[n, classes]."""
    ours, theirs = made.flatten(1).double(), real.flatten(1).double()
    inner = tangent_kernel(ours, ours, depth)
    level = ridge * inner.diagonal().mean() * torch.eye(len(ours), dtype=y.dtype, device=y.device)
    weights: Tensor = torch.linalg.solve(inner + level, y)
    return tangent_kernel(theirs, ours, depth) @ weights


def tangent_kernel(a: Tensor, b: Tensor, depth: int) -> Tensor:
    """The neural tangent kernel f64[n, m] of rows f64[n, d] and f64[m, d].

    Of a network of `depth` hidden layers with ReLU without biases, weights of variance 2 / width
    (Jacot et al. 2018, arXiv 1806.07572; arc-cosine kernels of Cho and Saul 2009): with
    c = s / sqrt(s_aa s_bb), s' = sqrt(s_aa s_bb) (c (pi - acos c) + sqrt(1 - c^2)) / pi and
    k' = s' + k (pi - acos c) / pi, layer by layer.
    """
    size = a.shape[1]
    scale = a.pow(2).sum(1)[:, None] / size * (b.pow(2).sum(1)[None] / size)
    scale = scale.clamp_min(1e-12).sqrt()
    variance = a @ b.T / size
    kernel = variance
    for _ in range(depth):
        # the slope of acos has no end at 1, where a row meets itself
        cosine = (variance / scale).clamp(-1 + 1e-9, 1 - 1e-9)
        angle = torch.acos(cosine)
        variance = scale * (cosine * (math.pi - angle) + torch.sin(angle)) / math.pi
        kernel = variance + kernel * (math.pi - angle) / math.pi
    return kernel
