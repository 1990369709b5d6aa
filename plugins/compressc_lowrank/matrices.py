"""The matrix that a layer multiplies what it reads by, and its bias, whatever tensors hold them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressc.ir.recurrent import Recurrent


def matrix_names(layer: Any) -> tuple[str, ...]:
    """Of the tensors that hold the matrix, one below the other.

    Of a recurrent layer it is the matrix of the input, of both directions together: they read the
    same. That of the state meets what the layer itself gives, step by step.
    """
    return _names(layer, "weight")


def bias_names(layer: Any) -> tuple[str, ...]:
    """Of the tensors that are added to the products of `matrix_names`, if there are any."""
    names = _names(layer, "bias")
    return names if getattr(layer, names[0], None) is not None else ()


def matrix_of(layer: Any) -> Tensor:
    """The matrix: [out, in * kernel], or [rows, width] of a table."""
    return torch.cat([getattr(layer, name).detach().flatten(1) for name in matrix_names(layer)])


def put_matrix(layer: Any, matrix: Tensor) -> None:
    """Have the layer multiply by another one, [out, in * kernel], in its own dtype."""
    _put(layer, matrix_names(layer), matrix)


def shift_bias(layer: Any, by: Tensor) -> None:
    """Add something [out] to the bias, in double precision."""
    names = bias_names(layer)
    old = torch.cat([getattr(layer, name).detach() for name in names])
    _put(layer, names, old.double() + by)


def _names(layer: Any, what: str) -> tuple[str, ...]:
    if not isinstance(layer, Recurrent):
        return (what,)
    return tuple(f"{what}_ih_l0{ending}" for ending in ("", "_reverse")[: layer.directions])


def _put(layer: Any, names: tuple[str, ...], rows: Tensor) -> None:
    """Fresh tensors: others may hold those of before. A matrix of fewer columns has its own."""
    old = [getattr(layer, name) for name in names]
    for name, tensor, own in zip(names, old, torch.split(rows, [len(t) for t in old]), strict=True):
        shape = tensor.shape if own.numel() == tensor.numel() else own.shape
        fresh = own.reshape(shape).to(tensor.dtype).contiguous()
        setattr(layer, name, nn.Parameter(fresh, tensor.requires_grad))
