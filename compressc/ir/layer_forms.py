"""What a layer op's module may be: exactly what its line of text says, and nothing hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir.graph import Graph
from compressc.ir.layer_building import build_layer, layer_tensors, squeeze
from compressc.ir.layers import Tensor
from compressc.ir.ops import Op, layer_attributes
from compressc.ir.printer import arg_text, error_at

#: Tables of a module that change what it computes, or hide tensors, and that no text shows.
_HIDDEN = (
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_MISSING = object()
#: Settings that a pooling module takes as one number or as one per spatial axis.
_PER_AXIS = ("kernel_size", "stride", "padding", "dilation", "output_size")
_SIMPLE = (int, float, str, bool, tuple, type(None))


@dataclass(frozen=True)
class _Form:
    """A module as its attributes alone make it.

    Attributes:
        model: the module, on the meta device.
        settings: its public attributes.
        tensors: (slot, shape) in order.
    """

    model: nn.Module
    settings: dict[str, Any]
    tensors: list[tuple[str, tuple[int, ...]]]


#: Kept from graph to graph: a pipeline verifies after each pass, and most layers stay.
_FORMS: dict[Any, _Form] = {}
_TWINS: dict[Any, nn.Module] = {}
_MOST_KNOWN = 10_000


class LayerForms:
    """Checks layers, and stands in for them on the meta device; equal ones are built once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        for known in (_FORMS, _TWINS):
            if len(known) > _MOST_KNOWN:
                known.clear()

    def check(self, op: Op) -> nn.Module:
        """See that text says all of a layer.

        Returns:
            A module that computes the same types on the meta device; one for all equal layers.

        Raises:
            CompresscError: CC400 with the line at fault.
        """
        layer = op.layer
        assert layer is not None
        hidden = [table for table in _HIDDEN if getattr(layer, table, None)]
        if hidden or "forward" in vars(layer):
            raise self._fault(op, f"'%{op.name}' has code that its text does not show", *hidden)
        if op.role == "tensor":
            return self._check_held(op)
        key, form = self._form(op)
        if type(layer) is not type(form.model):
            wanted = f"'%{op.name}' is a {type(form.model).__name__} by its kind"
            raise self._fault(op, wanted, type(layer).__name__)
        _check_settings(self, op, form)
        return self._twin(op, key, form)

    def _check_held(self, op: Op) -> nn.Module:
        layer = op.layer
        slot = "_parameters" if op.kind == "parameter" else "_buffers"
        names = [name for name, _ in layer_tensors(layer)] if layer is not None else []
        if type(layer) is not Tensor or names != ["value"] or "value" not in getattr(layer, slot):
            raise self._fault(op, f"'%{op.name}' holds one tensor, a {op.kind}", str(names))
        key = ("value", *_memory(layer.value))
        if key not in _TWINS:
            _TWINS[key] = Tensor(_meta(layer.value))
        return _TWINS[key]

    def _form(self, op: Op) -> tuple[Any, _Form]:
        try:
            attributes = layer_attributes(op)
            key = (op.kind, *attributes.items())
            if key not in _FORMS:
                for value in attributes.values():
                    arg_text(value)  # what has no text is refused here
                model = build_layer(op.kind, attributes)
                _FORMS[key] = _Form(model, _settings(model), _shapes(model))
            return key, _FORMS[key]
        except (AttributeError, TypeError, RuntimeError, CompresscError) as error:
            got = error.got or error.wanted if isinstance(error, CompresscError) else str(error)
            wanted = f"'%{op.name}' has attributes that make no {op.kind}"
            raise self._fault(op, wanted, got) from error

    def _twin(self, op: Op, key: Any, form: _Form) -> nn.Module:
        layer = op.layer
        assert layer is not None
        tensors = layer_tensors(layer)
        got = [(name, tuple(tensor.shape)) for name, tensor in tensors]
        if got != form.tensors or layer._buffers.keys() != form.model._buffers.keys():
            wanted = f"'%{op.name}' holds {_text(form.tensors)} by its attributes"
            raise self._fault(op, wanted, _text(got))
        slots = [isinstance(t, nn.Parameter) == (name in layer._parameters) for name, t in tensors]
        if not all(slots):
            raise self._fault(op, f"parameters of '%{op.name}' are trained, and buffers are not")
        self._check_dtypes(op, form)
        memory = tuple(_memory(tensor) for _, tensor in tensors)
        full = (key, memory)
        if full not in _TWINS:
            _TWINS[full] = build_layer(op.kind, layer_attributes(op))
            _fill(_TWINS[full], dict(tensors))
        return _TWINS[full]

    def _check_dtypes(self, op: Op, form: _Form) -> None:
        """Integers are where the kind has them; all other tensors are floats of one dtype."""
        assert op.layer is not None
        floats = set()
        for (_, tensor), (name, blank) in zip(
            layer_tensors(op.layer), layer_tensors(form.model), strict=True
        ):
            if blank.dtype.is_floating_point and tensor.dtype.is_floating_point:
                floats.add(tensor.dtype)
            elif tensor.dtype != blank.dtype:
                wanted = f"'{name}' of '%{op.name}' has a dtype like {blank.dtype}"
                raise self._fault(op, wanted, str(tensor.dtype))
        if len(floats) > 1:
            got = ", ".join(sorted(map(str, floats)))
            raise self._fault(op, f"the tensors of '%{op.name}' have one dtype", got)

    def _fault(self, op: Op, wanted: str, *got: str) -> CompresscError:
        return error_at(self.graph, op, "CC400", wanted, ", ".join(got))


def _check_settings(forms: LayerForms, op: Op, form: _Form) -> None:
    settings = vars(op.layer)
    for key, implied in form.settings.items():
        raw = settings.get(key, _MISSING)
        value = squeeze(raw)
        if isinstance(raw, tuple | list) and not _fits(len(raw), key, op.kind, form.model):
            value = _MISSING
        if type(value) is not type(implied) or value != implied:  # a stride of 1.0 is no stride
            wanted = f"'{key}' of '%{op.name}' is {implied} by its attributes"
            raise forms._fault(op, wanted, str(raw))


def _fits(length: int, key: str, kind: str, model: nn.Module) -> bool:
    """Whether a setting may have that many numbers: one per spatial axis, or as the model has."""
    own = vars(model)[key]
    if isinstance(own, tuple | list):
        return length == len(own)
    return key in _PER_AXIS and kind.endswith(f"{length}d")


def _settings(layer: nn.Module) -> dict[str, Any]:
    """What a module computes beside its tensors; the text form has to say all of it."""
    public = {key: squeeze(value) for key, value in vars(layer).items() if key[0] != "_"}
    return {k: v for k, v in public.items() if isinstance(v, _SIMPLE) and k != "training"}


def _shapes(layer: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in layer_tensors(layer)]


def _text(tensors: list[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in tensors) or "no tensors"


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, *tensor.shape, *tensor.stride()


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _fill(layer: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if name in layer._parameters:
            layer._parameters[name] = nn.Parameter(_meta(tensor), requires_grad=False)
        else:
            layer._buffers[name] = _meta(tensor)
