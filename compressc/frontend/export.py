"""nn.Module -> exported program: the trace, with open dimensions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import sympy
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from compressc.errors import CompresscError, first_line
from compressc.frontend.bags import plain_bags
from compressc.frontend.faithful import eval_mode, has_numbers
from compressc.frontend.inputs.arguments import (
    Arguments,
    Example,
    arguments_of,
    check_leaves,
    check_names,
)
from compressc.frontend.inputs.specs import ConstantSpec, InputSpec, place_inputs
from compressc.frontend.known_numbers import as_constants, has_known_numbers
from compressc.frontend.users_line import users_line
from compressc.ir.recurrent import whole_sequences
from compressc.quiet import quiet

#: A traced batch of one would be taken for a constant; more than a few cost time.
_LEAST_BATCH, _MOST_BATCH = 3, 8
#: What torch says where forward() does `self.weight.data *= self.mask`.
_HIDDEN_WRITE = "fake tensor in the exported program constant"
_UNKNOWN_TYPE = "which is not a known type"
#: Words in what torch says -> what the user can do.
_HINTS = {
    _HIDDEN_WRITE: "forward() writes into the .data of a parameter: multiply where the weight is "
    "read, F.linear(x, self.weight * self.mask)",
    _UNKNOWN_TYPE: "return tensors in tuples, lists, dicts or data classes from forward()",
}


def export_module(
    module: nn.Module,
    example: Example,
    *,
    specs: Sequence[InputSpec | ConstantSpec] = (),
) -> torch.export.ExportedProgram:
    """Trace a module with open dimensions.

    Args:
        module: any module; traced in eval mode and left in the mode it was in.
        example: a tuple of positional arguments or a dict of keyword arguments: tensors [n, ...],
            also nested in tuples, lists and dicts. What is no tensor stays a constant.
        specs: names and types of the inputs in the same order, which then alone say where in the
            arguments each tensor goes. The symbols of the types are the open dimensions. Without
            specs the first dimension of every input is open.

    Raises:
        CompresscError: CC202 where the module cannot be traced, CC204 where it rejects the inputs.
    """
    arguments = arguments_of(example)
    if specs:
        arguments = place_inputs(specs, arguments.tensors)
        check_names(module, list(arguments.kwargs))
    else:
        arguments = arguments.filled(rebatched(arguments.tensors))
        check_names(module, list(arguments.kwargs), where="the data or the example")
    # One object per input: torch takes two inputs that are the same object for one. And a copy: a
    # model may write into its inputs.
    arguments = arguments.filled([tensor.detach().clone() for tensor in arguments.tensors])
    check_leaves(arguments)
    check_initialised(module)
    with (
        eval_mode(module),
        _plain_attention(),
        _masks_as_given(),
        _named_keywords(module, arguments),
        torch.no_grad(),
    ):
        if has_numbers(module, arguments.tensors):
            try_out(module, arguments)
        with plain_bags(), whole_sequences():
            return _trace(module, arguments, _open_dims(arguments.tensors, specs))


def check_initialised(module: nn.Module) -> None:
    """See that every weight has its size.

    Raises:
        CompresscError: CC202 for a lazy layer that has seen no input yet.
    """
    tensors = (*module.named_parameters(), *module.named_buffers())
    if lazy := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise CompresscError(
            "CC202",
            "every weight has a size",
            got=f"{', '.join(lazy[:3])} of a lazy layer",
            where=type(module).__name__,
            hint="call the module once with an example input before it is given away",
        )


def try_out(module: nn.Module, arguments: Arguments) -> None:
    """Call a module once.

    Raises:
        CompresscError: CC204 where it does not take these arguments.
    """
    try:
        with quiet():
            module(*arguments.args, **arguments.kwargs)
    except (Exception, SystemExit) as error:  # the user's forward may raise anything
        raise CompresscError(
            "CC204",
            "the model must accept its inputs",
            got=f"{first_line(error)} for {', '.join(map(_shape_text, arguments.leaves))}",
            where=users_line(error),
            hint=_hint(arguments),
        ) from error


def _hint(arguments: Arguments) -> str:
    """What most often is the matter."""
    if any(x.dtype == torch.uint8 for x in arguments.tensors):
        return "images of bytes become floats by data.map(lambda x: x.float() / 255), for example"
    return "check the data set (the last item of a tuple is the labels), or give --input"


def _shape_text(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"
    return str(leaf)[:40]


def _trace(
    module: nn.Module, arguments: Arguments, dims: Sequence[dict[int, Any]], *, again: bool = True
) -> torch.export.ExportedProgram:
    try:
        with quiet():
            return torch.export.export(
                module,
                arguments.args,
                arguments.kwargs,
                dynamic_shapes=_by_parameter(module, arguments, dims),
                strict=False,
            )
    except (Exception, SystemExit) as error:  # what the user's own forward raises, and more
        if again and _UNKNOWN_TYPE in str(error) and register_dataclasses(module, arguments):
            return _trace(module, arguments, dims, again=False)
        if again and has_known_numbers(module):
            with as_constants(module):
                return _trace(module, arguments, dims, again=False)
        hints = (hint for words, hint in _HINTS.items() if words in str(error))
        raise CompresscError(
            "CC202",
            "the model cannot be traced by torch.export",
            got=first_line(error),
            where=users_line(error),
            hint=next(hints, "make forward() free of Python branches on tensor values"),
        ) from error


def register_dataclasses(module: nn.Module, arguments: Arguments) -> bool:
    """Tell torch the data classes that a module returns; False where it returns none."""
    found: set[type] = set()

    def look(value: Any) -> None:
        if is_dataclass(value):
            found.add(type(value))
            value = {each.name: getattr(value, each.name) for each in fields(value)}
        if isinstance(value, Mapping | tuple | list):
            for item in value.values() if isinstance(value, Mapping) else value:
                look(item)

    with quiet():
        look(module(*arguments.args, **arguments.kwargs))
    for kind in found:
        torch.export.register_dataclass(kind)
    return bool(found)


def _by_parameter(
    module: nn.Module, arguments: Arguments, dims: Sequence[dict[int, Any]]
) -> dict[str, Any]:
    """The open dimensions nested like the arguments, under the names of `forward`."""
    spare = iter(dims)
    shapes = arguments.map(lambda leaf: next(spare) if isinstance(leaf, torch.Tensor) else None)
    return inspect.signature(module.forward).bind(*shapes.args, **shapes.kwargs).arguments


@contextmanager
def _named_keywords(module: nn.Module, arguments: Arguments) -> Iterator[None]:
    """Show torch the keywords that go into `**kwargs` as parameters, which it cannot match else."""
    signature = inspect.signature(module.forward)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    extra = sorted(arguments.kwargs.keys() - {p.name for p in kept})
    if not extra:
        yield
        return
    kept += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra]
    forward = module.forward

    def named(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    named.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    own = "forward" in vars(module)
    module.forward = named
    try:
        yield
    finally:
        if own:
            module.forward = forward
        else:
            del module.forward


def _open_dims(
    tensors: Sequence[torch.Tensor], specs: Sequence[InputSpec | ConstantSpec]
) -> list[dict[int, Any]]:
    """Dimension -> AUTO where it is open: torch finds out which ones depend on each other."""
    if not specs:
        return [{0: torch.export.Dim.AUTO} if tensor.dim() else {} for tensor in tensors]
    shapes = [spec.type.shape for spec in specs if isinstance(spec, InputSpec)]
    return [
        {dim: torch.export.Dim.AUTO for dim, s in enumerate(shape) if isinstance(s, sympy.Symbol)}
        for shape in shapes
    ]


def rebatched(example: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The same inputs with a batch that is no constant: where it is 1, repeated; cut to a few."""
    batch = next((len(tensor) for tensor in example if tensor.dim()), 1)
    wanted = max(_LEAST_BATCH, min(batch, _MOST_BATCH))
    return tuple(
        tensor.repeat(-(-wanted // batch), *[1] * (tensor.dim() - 1))[:wanted]
        if tensor.dim() and batch and len(tensor) == batch
        else tensor
        for tensor in example
    )


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's fused inference path, which is one opaque operator per transformer layer."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _masks_as_given() -> Iterator[None]:
    """`nn.Transformer` looks for a causal mask among its values, which a trace does not have.

    What it finds out is for speed alone: a mask that nobody called causal is applied as it is.
    """
    layers = torch.nn.modules.transformer
    look = layers._detect_is_causal_mask
    layers._detect_is_causal_mask = _is_called_causal
    try:
        yield
    finally:
        layers._detect_is_causal_mask = look


def _is_called_causal(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
    return is_causal is True
