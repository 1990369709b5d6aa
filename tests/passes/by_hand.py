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
    """Three of six neurons: those whose weights, in and out, are largest on average."""
    into, out = np.linalg.norm(w["a.weight"], axis=1), np.linalg.norm(w["b.weight"], axis=0)
    kept = np.sort(np.argsort(into / into.mean() + out / out.mean())[3:])
    hidden = np.maximum(x @ w["a.weight"][kept].T + w["a.bias"][kept], 0)
    return hidden @ w["b.weight"][:, kept].T + w["b.bias"]


def layer_and_relu(w: Weights, x: np.ndarray) -> np.ndarray:
    return np.maximum(layer(w, x), 0)


def layer(w: Weights, x: np.ndarray) -> np.ndarray:
    return x @ w["a.weight"].T + w["a.bias"]


def two_directions(w: Weights, x: np.ndarray) -> np.ndarray:
    """The best matrix of rank 2 (Eckart and Young 1936)."""
    u, s, v = np.linalg.svd(w["a.weight"].astype(np.float64))
    return x @ (u[:, :2] * s[:2] @ v[:2]).T + w["a.bias"]


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
    "lowrank/wide": two_directions,
    "lowrank/narrow": layer,
    "distill/recovers": chain,
    "distill/nothing": relu,
    "quant/linear": rounded_layer,
    "quant/nothing": relu,
}
#: Where a pass must leave the graph as it is.
UNTOUCHED = {
    *("simplify/shared", "prune/output", "lowrank/narrow", "distill/nothing", "quant/nothing"),
    "student/whole",
}
