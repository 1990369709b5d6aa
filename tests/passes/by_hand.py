"""What the graphs of the `.ir` files compute after their passes, in numpy alone.

Each function takes the weights before the passes and inputs [n, ...], and returns outputs [n, ...];
none of it looks at what a pass did.
"""

from __future__ import annotations

import numpy as np

Weights = dict[str, np.ndarray]


def normalized_convolution(w: Weights, x: np.ndarray) -> np.ndarray:
    """A 1x1 convolution without bias, batch norm by its statistics, the mean of each channel."""
    value = np.einsum("oi,nihw->nohw", w["conv.weight"][:, :, 0, 0], x)
    return _normalized(w, value).mean((2, 3))


def normalized_and_not(w: Weights, x: np.ndarray) -> np.ndarray:
    """The convolution with its bias, once normalized and once as it is, added."""
    value = np.einsum("oi,nihw->nohw", w["conv.weight"][:, :, 0, 0], x)
    value += w["conv.bias"][:, None, None]
    return (_normalized(w, value) + value).mean((2, 3))


def _normalized(w: Weights, value: np.ndarray) -> np.ndarray:
    of = {name: w[f"bn.{name}"][:, None, None] for name in ("weight", "bias")}
    mean, variance = (w[f"bn.running_{name}"][:, None, None] for name in ("mean", "var"))
    return (value - mean) / np.sqrt(variance + 1e-5) * of["weight"] + of["bias"]


def strongest_neurons(w: Weights, x: np.ndarray) -> np.ndarray:
    """Three of six neurons: those whose squared weights, in and out, sum up to most."""
    kept = _strongest_half(w)
    hidden = np.maximum(x @ w["a.weight"][kept].T + w["a.bias"][kept], 0)
    return hidden @ w["b.weight"][:, kept].T + w["b.bias"]


def _strongest_half(w: Weights) -> np.ndarray:
    order = np.argsort((w["a.weight"] ** 2).sum(1) + (w["b.weight"] ** 2).sum(0))
    return np.sort(order[len(order) // 2 :])


def strongest_neurons_two_of_four(w: Weights, x: np.ndarray) -> np.ndarray:
    """The same with half of eight, and two of four weights that lie side by side."""
    kept = _strongest_half(w)
    a, b = _two_of_four(w["a.weight"][kept]), _two_of_four(w["b.weight"][:, kept])
    return np.maximum(x @ a.T + w["a.bias"][kept], 0) @ b.T + w["b.bias"]


def _two_of_four(weight: np.ndarray) -> np.ndarray:
    """Each row of four, with its two smallest as zeros."""
    found = weight.copy()
    for row in found:
        row[np.argsort(np.abs(row))[:2]] = 0
    return found


def layer_and_relu(w: Weights, x: np.ndarray) -> np.ndarray:
    return np.maximum(layer(w, x), 0)


def layer(w: Weights, x: np.ndarray) -> np.ndarray:
    return x @ w["a.weight"].T + w["a.bias"]


def two_directions(w: Weights, x: np.ndarray) -> np.ndarray:
    """The best matrix of rank 2 (Eckart and Young 1936)."""
    u, s, v = np.linalg.svd(w["a.weight"].astype(np.float64))
    return x @ (u[:, :2] * s[:2] @ v[:2]).T + w["a.bias"]


def few_channels(w: Weights, x: np.ndarray) -> np.ndarray:
    """The best two patterns of patches (Eckart and Young 1936)."""
    weight = w["conv.weight"].astype(np.float64)
    return _convolved(_best(weight.reshape(8, -1), 2).reshape(weight.shape), w, x)


def columns_then_rows(w: Weights, x: np.ndarray) -> np.ndarray:
    """The best sum of three products of a column and a row, over all channels together."""
    weight = w["conv.weight"].astype(np.float64).transpose(1, 2, 0, 3)  # in, y, out, x
    best = _best(weight.reshape(18, 24), 3).reshape(weight.shape)
    return _convolved(best.transpose(2, 0, 1, 3), w, x)


def few_channels_inside(w: Weights, x: np.ndarray) -> np.ndarray:
    """Three directions of each side, found in turns from those of the unfolded weight."""
    weight = w["conv.weight"].astype(np.float64)

    def directions(matrix: np.ndarray) -> np.ndarray:
        u = np.linalg.svd(matrix, full_matrices=False)[0][:, :3]
        return u @ u.T  # the projection on them

    inner = directions(weight.transpose(1, 0, 2, 3).reshape(6, -1))
    for _ in range(3):
        outer = directions(np.einsum("oiyx,ij->ojyx", weight, inner).reshape(8, -1))
        cut = np.einsum("oiyx,op->piyx", weight, outer)
        inner = directions(cut.transpose(1, 0, 2, 3).reshape(6, -1))
    return _convolved(np.einsum("oiyx,op,ij->pjyx", weight, outer, inner), w, x)


def _best(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


def _convolved(weight: np.ndarray, w: Weights, x: np.ndarray) -> np.ndarray:
    """3x3, padding 1, every other row; the mean over rows."""
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(2, 3))[:, :, ::2]
    value = np.einsum("nihwyx,oiyx->nohw", windows, weight) + w["conv.bias"][:, None, None]
    return value.mean(2).reshape(len(x), -1)


def chain(w: Weights, x: np.ndarray) -> np.ndarray:
    return layer(w, x) @ w["b.weight"].T + w["b.bias"]


def relu(w: Weights, x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def rounded_layer(w: Weights, x: np.ndarray) -> np.ndarray:
    """A weight on a grid of 127 steps to each side of zero, by the largest of its row."""
    step = np.abs(w["a.weight"]).max(1, keepdims=True) / 127
    return x @ (np.round(w["a.weight"] / step) * step).T + w["a.bias"]


def every_other_block(w: Weights, x: np.ndarray) -> np.ndarray:
    return _residual(w, x, (0, 2))


def every_block(w: Weights, x: np.ndarray) -> np.ndarray:
    return _residual(w, x, (0, 1, 2, 3))


def _residual(w: Weights, x: np.ndarray, blocks: tuple[int, ...]) -> np.ndarray:
    for i in blocks:
        x = x + np.maximum(x @ w[f"a{i}.weight"].T + w[f"a{i}.bias"], 0)
    return x @ w["head.weight"].T + w["head.bias"]


#: Pass and file -> what comes out.
COMPUTED = {
    "simplify/fold": normalized_convolution,
    "simplify/shared": normalized_and_not,
    "prune/neurons": strongest_neurons,
    "prune/output": layer_and_relu,
    "student/halved": every_other_block,
    "student/whole": every_block,
    "sparsify/pattern": strongest_neurons_two_of_four,
    "sparsify/uneven": layer,
    "lowrank/wide": two_directions,
    "lowrank/channel": few_channels,
    "lowrank/spatial": columns_then_rows,
    "lowrank/tucker": few_channels_inside,
    "lowrank/narrow": layer,
    "distill/recovers": chain,
    "distill/nothing": relu,
    "quant/linear": rounded_layer,
    "quant/nothing": relu,
}
#: Where a pass must leave the graph as it is.
UNTOUCHED = {
    *("simplify/shared", "prune/output", "lowrank/narrow", "distill/nothing", "quant/nothing"),
    *("student/whole", "sparsify/uneven"),
}
