"""How ops are called: after the module that holds their weight, or after where they stand."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from compressc.frontend.held import HeldTensors
from compressc.frontend.raising import RULES
from compressc.ir import LAYERS
from compressc.ir.recurrent import CALLS

#: Modules whose whole work is one layer op; attention, say, makes several.
_LEAVES = {layer.module.__name__ for layer in LAYERS.values()} - {"Tensor"} | {"LSTM", "GRU", "RNN"}
_SLOTS = ("weight", "running_mean", "running_var", "bias")


def layer_stem(node: fx.Node, kind: str, held: HeldTensors) -> str:
    """Name of a layer: its module's path, or the path of the caller and the kind of layer."""
    path, class_name = _position(node)
    if _is_leaf(class_name) and path:
        return path
    bare = ""
    sources = [source for source in map(held.origin, node.all_input_nodes) if source in held]
    for source in sorted(sources, key=lambda s: -held.tensor(s).dim()):  # weight before bias
        owner, dot, last = held.name(source).rpartition(".")
        bare = bare or owner + dot + last
        for slot in _SLOTS:
            if last.endswith(slot):  # `in_proj_weight` belongs to `in_proj`
                stem = (owner + dot + last.removesuffix(slot)).rstrip("._")
                return stem or kind
    if bare and kind == "linear":  # a product with a parameter of its own: `x @ self.projection`
        return bare
    return f"{path}.{kind}" if path else kind


def call_stem(node: fx.Node, kind: str) -> str:
    """Name of any other call: the caller's path and the operator as the user wrote it."""
    short = kind.split(".")[1 if "." in kind else 0].strip("_")
    path, class_name = _position(node)
    weighs = kind in CALLS or (kind in RULES and bool(RULES[kind].tensors))
    if path and weighs and _is_leaf(class_name):
        return path  # a layer but for its weight, which is computed or one of a list
    return f"{path}.{short}" if path else short


def first_path(nodes: Iterable[fx.Node]) -> str:
    """Path of the first module that one of the calls is made in; "" where there is none."""
    return next((path for node in nodes if (path := _position(node)[0])), "")


def _position(node: fx.Node) -> tuple[str, str]:
    """Path and class name of the innermost module that makes the call."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, class_ = stack[-1] if stack else ("", "")
    name = class_ if isinstance(class_, str) else f"{class_.__module__}.{class_.__qualname__}"
    return str(path).replace("@", "_"), name


def _is_leaf(class_name: str) -> bool:
    """A layer of torch, also with `torch.nn.utils.parametrize`, which makes a class of its own."""
    return class_name.rpartition(".")[2].removeprefix("Parametrized") in _LEAVES
