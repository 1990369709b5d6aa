"""The tensors an exported program holds: private copies, kept tied where they were tied."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import fx, nn

from compressc.ir.ops import kind_of
from compressc.ir.sharing import address

#: Parts of a weight that a layer may hold as a weight of its own (attention's packed projections).
_PARTS = {
    "aten.split.Tensor",
    "aten.split_with_sizes",
    "aten.chunk",
    "aten.unbind.int",
    "aten.select.int",
    "aten.slice.Tensor",
    "getitem",
}
_TRANSPOSES = {"aten.t", "aten.transpose.int", "aten.permute", "aten.numpy_T", "aten.mT"}
#: `x @ w` and `addmm(bias, x, w)`: position of the weight among the operands.
_PRODUCTS = {"aten.matmul": 1, "aten.mm": 1, "aten.addmm": 2}


class HeldTensors:
    """fx node -> (name, tensor) for parameters, buffers, constants and parts of them."""

    def __init__(self) -> None:
        self._found: dict[fx.Node, tuple[str, Any]] = {}
        self._copies: dict[Hashable, torch.Tensor] = {}
        self._transposed: dict[fx.Node, fx.Node] = {}
        self._flipped: dict[int, torch.Tensor] = {}

    def __contains__(self, node: object) -> bool:
        return node in self._found

    def add(self, node: fx.Node, name: str, value: torch.Tensor) -> None:
        """Hold a private copy; the same memory gives the same copy, so that ties hold."""
        self._found[node] = (name, self._copy(value))

    def link(self, node: fx.Node, other: fx.Node) -> None:
        """Let `node` stand for what `other` stands for."""
        self._found[node] = self._found[other]

    def origin(self, node: fx.Node) -> fx.Node:
        """The held tensor that `node` is the transpose of, or `node` itself."""
        return self._transposed.get(node, node)

    def name(self, node: fx.Node) -> str:
        """The name in the user's module, `layer1.conv.weight`."""
        return self._found[node][0] if node in self._found else node.name

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """The copy."""
        value: torch.Tensor = self._found[node][1]
        return value

    def _copy(self, value: torch.Tensor) -> torch.Tensor:
        key = _identity(value)
        if key not in self._copies:
            # no shared one: the user may hold raw pointers (numpy views) into a module's weights
            self._copies[key] = _like(value.detach().clone(), value)
        return self._copies[key]

    def absorb(self, node: fx.Node) -> bool:
        """Take over a call that picks a part of a held tensor, where nothing reads the whole."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source not in self._found:
            return False
        kind = _kind(node)
        if kind in _TRANSPOSES and self.tensor(source).dim() == 2 and _swaps(node):
            self._transposed[node] = source  # an op only where something but a product reads it
            return True
        if kind not in _PARTS or not all(_kind(user) in _PARTS for user in source.users):
            return False
        name, value = self._found[source]
        if kind == "getitem":
            self._found[node] = self._part(name, value, int(node.args[1]))  # type: ignore[arg-type]
        elif all(not isinstance(a, fx.Node) for a in node.args[1:]):
            with torch.no_grad():
                result = node.target(value, *node.args[1:], **node.kwargs)  # type: ignore[operator]
            if isinstance(result, torch.Tensor):
                part = list(source.users).index(node)
                self._found[node] = (_part_name(name, part), _like(result.clone(), value))
            else:
                self._found[node] = (name, [_like(item.clone(), value) for item in result])
        return node in self._found

    @staticmethod
    def _part(name: str, parts: list[torch.Tensor], index: int) -> tuple[str, torch.Tensor]:
        return _part_name(name, index), parts[index]

    def transposed_operand(self, node: fx.Node) -> torch.Tensor | None:
        """The weight [out, in] of a product whose second factor is held, else None.

        `x @ w.t()` has it as it is. `x @ w` gets `w.t()` as a view that keeps the memory layout, so
        that the same kernel computes the same bits; only where every reader of `w` is such a
        product, for elsewhere the tie would break.
        """
        kind = _kind(node)
        if kind not in _PRODUCTS or len(node.args) <= _PRODUCTS[kind]:
            return None
        factor = node.args[_PRODUCTS[kind]]
        if not isinstance(factor, fx.Node):
            return None
        if factor in self._transposed:
            return self.tensor(self._transposed[factor])
        if factor not in self._found or self.tensor(factor).dim() != 2:
            return None
        if not all(_is_product_of(user, factor) for user in factor.users):
            return None
        value = self.tensor(factor)
        if id(value) not in self._flipped:
            self._flipped[id(value)] = _like(value.detach().t(), value)
        return self._flipped[id(value)]


def _identity(value: torch.Tensor) -> Hashable:
    """Equal for two tensors that are the same numbers in the same memory."""
    if value.numel() == 0 or value.is_meta:
        return id(value)
    place = (address(value), str(value.device), value.dtype)
    return (*place, tuple(value.shape), value.stride(), isinstance(value, nn.Parameter))


def _like(value: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    if isinstance(model, nn.Parameter):
        return nn.Parameter(value, requires_grad=value.is_floating_point())
    return value


def _kind(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return kind_of(node.target)
    return getattr(node.target, "__name__", "")


def _swaps(node: fx.Node) -> bool:
    """A transpose of a matrix that really swaps its two dimensions."""
    shape = node.args[0].meta["val"].shape  # type: ignore[union-attr]
    strides = node.args[0].meta["val"].stride()  # type: ignore[union-attr]
    value = node.meta["val"]
    return (*value.shape,) == (shape[1], shape[0]) and value.stride() == (strides[1], strides[0])


def _is_product_of(user: fx.Node, factor: fx.Node) -> bool:
    position = _PRODUCTS.get(_kind(user), -1)
    return position > 0 and [a is factor for a in user.args].index(True) == position


def _part_name(name: str, index: int) -> str:
    """`attn.in_proj_weight` -> `attn.in_proj_1.weight`."""
    for slot in ("weight", "bias"):
        if name.endswith(slot):
            return f"{name.removesuffix(slot).rstrip('._')}_{index}.{slot}"
    return f"{name}_{index}"
