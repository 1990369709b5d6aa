"""`matching`: samples whose classes have the means that the real ones have in random networks."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressc_distill.families.condensing.condensed import Condensed


class Matching(Condensed):
    """Change samples until random networks see each class as they see the real ones.

    Minimized: the squared distance of the means of the features of made and real samples, class by
    class, summed over the classes; a new network in each step, never trained. Images go through
    convolutions with instance norms and poolings, other inputs through two linear layers. Source:
    Zhao and Bilen 2023, arXiv 2110.04181, equation 4; without their augmentation.

    Legal for one input of floats. Cost: a forward pass of `batch` real samples, a forward and a
    backward pass of all made ones, for each of `steps`.
    """

    name: ClassVar[str] = "matching"

    width: Annotated[int, Field(ge=1)] = 64
    """Channels of the random networks."""

    def loss(self, made: Tensor, real: Tensor, labels: Tensor, number: int) -> Tensor:
        """See `Condensed`."""
        network = embedding(tuple(real.shape[1:]), self.width, number).to(real.device)
        with torch.no_grad():
            theirs = network(real)
        return mean_distance(network(made), theirs, labels)


def mean_distance(made: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of the means of each class, summed over the classes; a scalar.

    Args:
        made: features f32[classes * k, d], class by class.
        real: f32[n, d].
        labels: of the real ones, i64[n]; each class is there.
    """
    classes = int(labels.max()) + 1
    ours = made.reshape(classes, -1, made.shape[1]).mean(1)
    sums = torch.zeros_like(ours).index_add(0, labels, real)
    theirs = sums / torch.bincount(labels, minlength=classes)[:, None]
    return (ours - theirs).pow(2).sum()


def embedding(shape: tuple[int, ...], width: int, seed: int) -> nn.Module:
    """A network with random weights for inputs of a shape, to features f32[n, d]."""
    layers: list[nn.Module] = []
    if len(shape) == 3 and min(shape[1:]) > 1:
        channels, size = shape[0], min(shape[1:])
        while size > 1 and len(layers) < 12:
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            # of one pixel an instance norm would leave nothing
            layers += [convolution, nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
            channels, size = width, size // 2
    else:
        count = int(torch.Size(shape).numel())
        layers = [nn.Flatten(), nn.Linear(count, 8 * width), nn.ReLU()]
        layers += [nn.Linear(8 * width, 8 * width), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten()).requires_grad_(False)
    draw = torch.Generator().manual_seed(seed)
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            deviation = (2 / layer.weight[0].numel()) ** 0.5
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * deviation)
            assert layer.bias is not None
            layer.bias.zero_()
    return network
