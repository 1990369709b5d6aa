"""nn.Module -> exported program: the trace, with open dimensions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import nn

from compressc.errors import CompresscError, first_line
from compressc.frontend.inputs import InputSpec
from compressc.quiet import quiet

#: A traced batch of one would be taken for a constant; more than a few cost time.
_LEAST_BATCH, _MOST_BATCH = 3, 8


def export_module(
    module: nn.Module, example: Sequence[torch.Tensor], *, specs: Sequence[InputSpec] = ()
) -> torch.export.ExportedProgram:
    """Trace a module with open dimensions.

    Args:
        module: any module; traced in eval mode and left in the mode it was in.
        example: input tensors [n, ...].
        specs: names and types of the inputs in the same order. Named ones are passed by name; the
            symbols of the types are the open dimensions. Without specs the first dimension of every
            input is open.

    Raises:
        CompresscError: CC202 where the module cannot be traced, CC204 where it rejects the inputs.
    """
    if specs and len(specs) != len(example):
        raise CompresscError(
            "CC204", f"there are {len(specs)} inputs described", got=f"{len(example)} tensors"
        )
    inputs = tuple(example) if specs else _rebatch(example)
    args, kwargs = _by_name(module, inputs, specs)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with _plain_attention(), torch.no_grad():
            _try_out(module, args, kwargs)
            return _trace(
                module, args, kwargs, [_open_dims(inputs, specs, i) for i in range(len(inputs))]
            )
    finally:
        for part, mode in modes.items():
            part.training = mode


def _try_out(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        with quiet():
            module(*args, **kwargs)
    except Exception as error:  # the user's forward may raise anything
        tensors = [*args, *kwargs.values()]
        shapes = ", ".join(
            f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors
        )
        raise CompresscError(
            "CC204",
            "the model must accept its inputs",
            got=f"{first_line(error)} for {shapes}",
            hint="check the data set, or give --input",
        ) from error


def _trace(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dims: Sequence[dict[int, Any]],
) -> torch.export.ExportedProgram:
    positional = tuple(dims[: len(args)])
    dynamic = dict(zip(kwargs, dims[len(args) :], strict=True))
    try:
        names = list(inspect.signature(module.forward).parameters.values())
        variadic = bool(names) and names[0].kind is inspect.Parameter.VAR_POSITIONAL
        shapes: Any = (positional,) if variadic else positional
        if kwargs:
            shapes = {**dict(zip([p.name for p in names], positional, strict=False)), **dynamic}
        with quiet():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export raises what the user's own forward raises, and more
        raise CompresscError(
            "CC202",
            "the model cannot be traced by torch.export",
            got=first_line(error),
            hint="make forward() free of Python branches on tensor values",
        ) from error


def _by_name(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], specs: Sequence[InputSpec]
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Positional inputs, and from the first named one on keyword inputs.

    Raises:
        CompresscError: CC204 for a name that `forward` does not have.
    """
    first = next((i for i, spec in enumerate(specs) if spec.name), len(inputs))
    names = [spec.name for spec in specs[first:]]
    parameters = inspect.signature(module.forward).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in names if name not in parameters and not open_ended]
    if unknown or len(set(names)) != len(names):
        raise CompresscError(
            "CC204",
            f"the inputs of {type(module).__name__} are called {', '.join(parameters) or '(none)'}",
            got=", ".join(unknown or names),
            where="--input",
        )
    return inputs[:first], dict(zip(names, inputs[first:], strict=True))


def _open_dims(
    inputs: Sequence[torch.Tensor], specs: Sequence[InputSpec], index: int
) -> dict[int, Any]:
    """Dimension -> AUTO where it is open: torch finds out which ones depend on each other."""
    if specs:
        shape = enumerate(specs[index].type.shape)
        return {dim: torch.export.Dim.AUTO for dim, s in shape if isinstance(s, sympy.Symbol)}
    return {0: torch.export.Dim.AUTO} if inputs[index].dim() else {}


def _rebatch(example: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
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
