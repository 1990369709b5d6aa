"""Some hundred calls between a convolution and a linear layer, and what pruning makes of each.

Every call takes the 16 channels of a convolution, [b, 16, 8, 8], and gives [b, ...]. `CUT` and
`SUMMED` are the calls that let channels go; `KEPT` those that do not, with words of the reason and
the kind of the op that is to blame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Call = Callable[[torch.Tensor], torch.Tensor]
CHANNELS = 16


class Held(nn.Module):
    """A call with a parameter of its own."""

    def __init__(self, call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *shape: int):
        super().__init__()
        self.call, self.held = call, nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x, self.held)


def _zeros(x: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.zeros(x.shape[0], *shape, dtype=torch.long)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[b, 64, 16]: positions, then channels."""
    return x.flatten(2).mT


def _written(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, :, :2] = 0.0
    return y


def _own_kernels(x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Dynamic convolution: the batch is the groups."""
    b, c, h, w = x.shape
    kernels = x.sum((1, 2, 3)).cos()[:, None, None, None, None] * m
    return F.conv2d(x.reshape(1, b * c, h, w), kernels.flatten(0, 1), padding=1, groups=b).view(
        b, 6, h, w
    )


def _masked(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[y < -0.1] = 0.0
    return y


def _filled(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, :, [0, 3]] = 0.0
    return y


ELEMENTWISE: dict[str, Call] = {
    "dropout2d": nn.Dropout2d(),
    "dropout1d": lambda x: F.dropout1d(x.flatten(2), training=False),
    "dropout3d": lambda x: F.dropout3d(x.unsqueeze(2), training=False),
    "alpha_dropout": nn.AlphaDropout(),
    "feature_alpha_dropout": nn.FeatureAlphaDropout(),
    "prelu of channels": nn.PReLU(CHANNELS),
    "prelu of one": nn.PReLU(1),
    "celu": F.celu,
    "selu": F.selu,
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "rrelu": F.rrelu,
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.5),
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "tanhshrink": F.tanhshrink,
    "softplus": lambda x: F.softplus(x, 2),
    "clamp": lambda x: x.clamp(0, 6),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "where with a mask": lambda x: torch.where(x[:, :, :1] > 0, x, -x),
    "where, one number": lambda x: torch.where(~(x < 0), x, 0.3),
    "where, the other number": lambda x: torch.where(x < 0, -0.3, x),
    "true_divide": lambda x: torch.true_divide(x, 2 + x * x),
    "divide": lambda x: torch.divide(x, 1 + x.abs()),
    "multiply, subtract": lambda x: torch.multiply(x, torch.subtract(x, 0.3)),
    "negative, absolute": lambda x: torch.negative(x).absolute(),
    "greater": lambda x: x * torch.greater(x, 0.1),
    "rsub": lambda x: torch.rsub(x, x.tanh()),
    "arctan2": lambda x: torch.arctan2(x, 1 + x * x),
    "bucketize": lambda x: x + torch.bucketize(x, torch.tensor([-0.2, 0.0, 0.3])),
    "written mask": _masked,
    "masks and operators": lambda x: x * ((x > 0) & ~(x > 1) | (x < -0.1)),
    "masked_fill": lambda x: x.masked_fill(x > 0.5, 0.25),
    "maximum": lambda x: torch.maximum(x, -0.2 * x),
    "lerp": lambda x: torch.lerp(x, x.tanh(), 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x),
    "scale of channels": Held(lambda x, scale: x * scale, 1, CHANNELS, 1, 1),
    "shift of channels": Held(lambda x, shift: x + shift[:, None, None], CHANNELS),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "ones_like": lambda x: x * torch.ones_like(x),
    "full_like": lambda x: x + torch.full_like(x, 2),
    "zeros": lambda x: x + torch.zeros(x.shape[0], CHANNELS, 1, 1),
    "full": lambda x: x * torch.full((CHANNELS, 1, 1), 2.0),
    "new_ones": lambda x: x * x.new_ones(x.shape),
    "type_as": lambda x: x.double().type_as(x),
}
STATISTICS: dict[str, Call] = {
    "instance_norm": nn.InstanceNorm2d(CHANNELS, affine=True),
    "instance_norm with statistics": nn.InstanceNorm2d(CHANNELS, track_running_stats=True),
    "instance_norm without weights": nn.InstanceNorm2d(CHANNELS),
    "batch_norm without statistics": nn.BatchNorm2d(CHANNELS, track_running_stats=False),
    "amax": lambda x: x.amax((2, 3), keepdim=True) + x,
    "aminmax": lambda x: x.aminmax(dim=2).max,
    "max over a dimension": lambda x: x.max(2)[0],
    "min over a dimension": lambda x: x * x.flatten(2).min(-1)[0][..., None, None],
    "median": lambda x: x.median(3)[0],
    "std": lambda x: x / (1 + x.std((2, 3), keepdim=True)),
    "var": lambda x: x.var((2, 3)),
    "var_mean": lambda x: torch.var_mean(x, (2, 3))[1],
    "logsumexp": lambda x: x.logsumexp((2, 3)),
    "prod": lambda x: x.prod(2),
    "norm over space": lambda x: x.norm(dim=(2, 3)),
    "normalize over space": lambda x: F.normalize(x, dim=2),
    "largest position": lambda x: x.flatten(2).argmax(2) * 0.1 + x.mean((2, 3)),
    "softmax over space": lambda x: x.flatten(2).softmax(-1),
    "log_softmax over space": lambda x: x.log_softmax(3),
}
MOVING: dict[str, Call] = {
    "flip": lambda x: x.flip(3),
    "roll": lambda x: x.roll(1, 2),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "cumsum": lambda x: x.cumsum(3),
    "cumprod": lambda x: x.cumprod(3),
    "cummax": lambda x: x.cummax(3)[0],
    "diff": lambda x: x.diff(dim=3),
    "sort": lambda x: x.sort(2)[0],
    "topk": lambda x: x.flatten(2).topk(4, 2)[0],
    "tril": lambda x: x.tril(),
    "replicate pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "reflect pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "circular pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "constant pad": lambda x: F.pad(x, (0, 1, 2, -1)),
    "adaptive max pool": nn.AdaptiveMaxPool2d(2),
    "adaptive max pool 1d": lambda x: F.adaptive_max_pool1d(x.flatten(2), 2),
    "adaptive average pool 3d": lambda x: F.adaptive_avg_pool3d(x.unsqueeze(2), (1, 2, 2)),
    "lp_pool": lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2),
    "nearest-exact": nn.Upsample(scale_factor=2, mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, size=(5, 5), mode="bilinear"),
    "bicubic antialias": lambda x: F.interpolate(x, size=(5, 5), mode="bicubic", antialias=True),
    "linear": lambda x: F.interpolate(x.flatten(2), scale_factor=0.5, mode="linear"),
    "grid_sample": lambda x: F.grid_sample(
        x, torch.full((x.shape[0], 4, 4, 2), 0.3), align_corners=False
    ),
    "F.unfold": lambda x: F.unfold(x, 2),
    "F.fold": lambda x: F.fold(x.flatten(2).repeat_interleave(4, 1)[:, :, :64], (9, 9), 2),
    "Tensor.unfold": lambda x: x.unfold(2, 3, 2),
    "every other column": lambda x: x[..., ::2],
    "narrow": lambda x: x.narrow(2, 1, 4),
    "fft": lambda x: torch.fft.fft(x).real,
    "fft2": lambda x: torch.fft.fft2(x).imag,
    "rfftn, irfftn": lambda x: torch.fft.irfftn(torch.fft.rfftn(x, dim=(2, 3)) * 0.5, (8, 8)),
    "fftshift": lambda x: torch.fft.fftshift(x, (2, 3)),
    "stft": lambda x: torch.view_as_real(
        torch.stft(
            x.flatten(0, 1).flatten(1), 16, window=torch.hann_window(16), return_complex=True
        )
    ).unflatten(0, (-1, CHANNELS)),
}
SHAPES: dict[str, Call] = {
    "view of -1": lambda x: x.view(x.shape[0], -1),
    "view_as": lambda x: x.flatten(2).view_as(x),
    "reshape_as": lambda x: x.flatten(2).reshape_as(x.tanh()),
    "expand_as": lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x),
    "broadcast_to": lambda x: x.mean((2, 3), keepdim=True).broadcast_to(x.shape) + x,
    "movedim": lambda x: x.movedim(1, -1),
    "moveaxis": lambda x: x.moveaxis((1, 2), (3, 1)),
    "swapaxes": lambda x: x.swapaxes(1, 3),
    "swapdims": lambda x: x.swapdims(2, 3),
    "mT": lambda x: x.flatten(2).mT,
    "adjoint": lambda x: x.adjoint(),
    "squeeze": lambda x: x.mean(3, keepdim=True).squeeze(),
    "atleast_3d": torch.atleast_3d,
    "stack, mean": lambda x: torch.stack((x, x.tanh())).mean(0),
    "stack, max": lambda x: torch.stack((x, x.tanh()), 4).max(4)[0],
    "hstack": lambda x: torch.hstack((x, x.tanh())),
    "concat": lambda x: torch.concat((x, x.tanh()), 1),
    "dstack": lambda x: torch.dstack((x, x.tanh())),
    "glu": lambda x: F.glu(x, 1),
    "glu of two": lambda x: F.glu(torch.cat((x, x.tanh()), 1), 1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 4),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "repeat of channels": lambda x: x.repeat(1, 2, 1, 1),
    "tile": lambda x: x.tile(2, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "chunk": lambda x: x.chunk(2, 1)[1],
    "tensor_split": lambda x: torch.cat(torch.tensor_split(x, (4, 10), 1)[1:], 1),
    "pairs of channels as complex": lambda x: torch.view_as_real(
        torch.view_as_complex(_rows(x).contiguous().unflatten(2, (8, 2)))
    ),
    "complex of two": lambda x: torch.complex(x, x.tanh()).abs(),
    "complex": lambda x: torch.view_as_real(
        torch.view_as_complex(x.unflatten(3, (4, 2))) * torch.tensor(1j)
    ),
}
INDEXED: dict[str, Call] = {
    "gather": lambda x: x.flatten(2).gather(2, _zeros(x, CHANNELS, 1) + 3),
    "gather of a row": lambda x: _rows(x).gather(1, _zeros(x, 1, 1).expand(-1, 1, CHANNELS)),
    "scatter": lambda x: x.scatter(2, torch.zeros_like(x, dtype=torch.long), 0.0),
    "scatter_add": lambda x: x.scatter_add(2, torch.zeros_like(x, dtype=torch.long), x),
    "index_select": lambda x: x.index_select(2, torch.tensor([0, 3])),
    "index_add": lambda x: x.index_add(2, torch.tensor([1]), x[:, :, :1]),
    "list of rows": lambda x: x[:, :, [0, 3]],
    "pairs of positions": lambda x: x[:, :, [0, 3], [1, 2]],
    "written slice": _written,
    "written rows": _filled,
    "index_fill": lambda x: x.index_fill(2, torch.tensor([0, 3]), 0.0),
}
PRODUCTS: dict[str, Call] = {
    "einsum gate": lambda x: torch.einsum("bchw,bc->bchw", x, x.mean((2, 3)).sigmoid()),
    "einsum to rows": lambda x: torch.einsum("b c h w -> b h w c", x),
    "mv over positions": Held(lambda x, v: x.flatten(2) @ v, 64),
    "tensordot over rows": Held(lambda x, m: torch.tensordot(x, m, ([3], [0])), 8, 5),
    "outer product": Held(lambda x, v: x.mean((2, 3))[..., None] * v, 3),
}
#: Calls that sum over channels and let them go: one that is zero adds nothing.
SUMMED: dict[str, Call] = {
    "normalize": lambda x: F.normalize(x, dim=1),
    "norm": lambda x: x.norm(dim=1),
    "largest norm": lambda x: torch.linalg.vector_norm(x, torch.inf, 1),
    "sum": lambda x: x.sum(1),
    "sum of a product": lambda x: x * (x * x.tanh()).sum(1, keepdim=True),
    "any": lambda x: (x > 0.3).any(1) * 1.0,
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.flip(2), dim=1),
    "pairwise_distance": lambda x: F.pairwise_distance(_rows(x), _rows(x.flip(3))),
    "cdist": lambda x: torch.cdist(_rows(x), _rows(x.flip(3))),
    "matmul": lambda x: _rows(x) @ _rows(x).mT,
    "baddbmm": lambda x: torch.baddbmm(torch.ones(1, 1, 64), _rows(x), x.flatten(2)),
    "einsum": lambda x: torch.einsum("bchw,bcij->bhi", x, x.tanh()),
    "einsum, as it comes": lambda x: torch.einsum("bcn,bmc", x.flatten(2), _rows(x)),
    "matrix and vector": Held(lambda x, v: _rows(x) @ v, CHANNELS),
    "addmm": Held(lambda x, m: torch.addmm(torch.ones(3), x.mean((2, 3)), m), CHANNELS, 3),
    "tensordot": Held(lambda x, m: torch.tensordot(x, m, ([1], [0])), CHANNELS, 5),
    "convolution with weights": Held(
        lambda x, m: F.conv2d(x, m * x.sum().cos(), padding=1), 12, CHANNELS, 3, 3
    ),
    "convolution of groups": Held(
        lambda x, m: F.conv2d(x, m * x.sum().cos(), groups=4, stride=2), 12, CHANNELS // 4, 1, 1
    ),
    "transposed convolution": Held(
        lambda x, m: F.conv_transpose2d(x, m * x.sum().cos(), stride=2), CHANNELS, 6, 2, 2
    ),
    "convolution for each sample": Held(_own_kernels, 6, CHANNELS, 3, 3),
    "convolution with 1x1 over rows": Held(
        lambda x, m: torch.einsum("bchw,oc->bohw", x, m), 3, CHANNELS
    ),
}
#: Calls that let channels go.
CUT: dict[str, dict[str, Call]] = {
    "elementwise": ELEMENTWISE,
    "statistics": STATISTICS,
    "moving": MOVING,
    "shapes": SHAPES,
    "indexed": INDEXED,
    "products": PRODUCTS,
}
#: Calls that do not -> words of the reason, kind of the op to blame.
KEPT: dict[str, tuple[Call, str, str]] = {
    "flip": (lambda x: x.flip(1), "turned round", "aten.flip"),
    "roll": (lambda x: x.roll(1, 1), "turned round", "aten.roll"),
    "cumsum": (lambda x: x.cumsum(1), "a running sum goes along it", "aten.cumsum"),
    "sort": (lambda x: x.sort(1)[0], "its indices are sorted", "aten.sort"),
    "topk": (lambda x: x.topk(4, 1)[0], "its indices are sorted", "aten.topk"),
    "softmax": (nn.Softmax2d(), "a softmax runs over it", "aten.softmax.int"),
    "argmax": (lambda x: x.argmax(1) * 1.0, "its indices are told apart", "aten.argmax"),
    "max": (lambda x: x.max(1)[0], "a norm or mean runs over it", "aten.max.dim"),
    "max with positions": (lambda x: x.max(1)[1] * 1.0, "told apart", "aten.max.dim"),
    "std": (lambda x: x.std(1), "a norm or mean runs over it", "aten.std.dim"),
    "centred": (lambda x: x - x.mean(1, True), "a norm or mean runs over it", "aten.mean.dim"),
    "batch_norm of rows": (
        lambda x: F.batch_norm(_rows(x), None, None, training=True),
        "a norm or mean runs over it",
        "aten.batch_norm",
    ),
    "conv3d": (lambda x: x.unsqueeze(1), "a convolution slides along it", "conv3d"),
    "avg_pool1d": (lambda x: F.avg_pool1d(_rows(x), 2), "pooling slides", "aten.avg_pool1d"),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), "pooling slides", "aten.max_pool3d"),
    "interpolate": (
        lambda x: F.interpolate(_rows(x), scale_factor=2, mode="nearest"),
        "interpolated",
        "aten.upsample_nearest1d.vec",
    ),
    "pad": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), "padded", "aten.pad"),
    "pad and crop": (lambda x: F.pad(x, (0, 0, 0, 0, 1, -1)), "padded", "aten.pad"),
    "windows": (lambda x: x.unfold(1, 2, 2), "windows are read along it", "aten.unfold"),
    "every other": (lambda x: x[:, ::2], "a slice is read from it", "aten.slice.Tensor"),
    "narrow": (lambda x: x.narrow(1, 2, 4), "a slice is read from it", "aten.narrow"),
    "one channel": (lambda x: x[:, 3], "single indices are read from it", "aten.select.int"),
    "list of channels": (lambda x: x[:, [0, 3]], "single indices", "aten.index.Tensor"),
    "gather": (lambda x: x.gather(1, _zeros(x, 2, 8, 8)), "single indices", "aten.gather"),
    "unbind": (lambda x: torch.add(*x.unbind(1)[:2]), "told apart", "aten.unbind.int"),
    "fft": (lambda x: torch.fft.fft(x, dim=1).real, "a Fourier transform", "aten.fft_fft"),
    "fftn": (lambda x: torch.fft.fftn(x, dim=(1, 2)).real, "a Fourier transform", "aten.fft_fftn"),
    "fftshift": (lambda x: torch.fft.fftshift(x, 1), "turned round", "aten.fft_fftshift"),
    "index_fill": (
        lambda x: x.index_fill(1, torch.tensor([0, 3]), 0.5),
        "single indices are written to",
        "aten.index_fill.int_Scalar",
    ),
    "diagonal": (
        lambda x: x.diagonal(dim1=1, dim2=2),
        "aten.diagonal has no coupling rule",
        "aten.diagonal",
    ),
}
