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
from compressc.quiet import quiet

#: A traced batch of one would be taken for a constant; more than a few cost time.
_LEAST_BATCH, _MOST_BATCH = 3, 8
#: What torch says where forward() does `self.weight.data *= self.mask`.
_HIDDEN_WRITE = "fake tensor in the exported program constant"
_WRITES_DATA = (
    "forward() writes into the .data of a parameter: multiply where the weight is read, "
    "F.linear(x, self.weight * self.mask)"
)


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
    # One object per input: torch takes two inputs that are the same object for one. And a copy: a
    # model may write into its inputs.
    arguments = arguments.filled([tensor.detach().clone() for tensor in arguments.tensors])
    check_leaves(arguments)
    with (
        eval_mode(module),
        _plain_attention(),
        _named_keywords(module, arguments),
        torch.no_grad(),
    ):
        if has_numbers(module, arguments.tensors):
            try_out(module, arguments)
        with plain_bags():
            return _trace(module, arguments, _open_dims(arguments.tensors, specs))


def try_out(module: nn.Module, arguments: Arguments) -> None:
    """Call a module once.

    Raises:
        CompresscError: CC204 where it does not take these arguments.
    """
    try:
        with quiet():
            module(*arguments.args, **arguments.kwargs)
    except Exception as error:  # the user's forward may raise anything
        raise CompresscError(
            "CC204",
            "the model must accept its inputs",
            got=f"{first_line(error)} for {', '.join(map(_shape_text, arguments.leaves))}",
            hint="check the data set, or give --input",
        ) from error


def _shape_text(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"
    return str(leaf)[:40]


def _trace(
    module: nn.Module, arguments: Arguments, dims: Sequence[dict[int, Any]]
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
    except Exception as error:  # torch.export raises what the user's own forward raises, and more
        raise CompresscError(
            "CC202",
            "the model cannot be traced by torch.export",
            got=first_line(error),
            hint=_WRITES_DATA
            if _HIDDEN_WRITE in str(error)
            else "make forward() free of Python branches on tensor values",
        ) from error


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
