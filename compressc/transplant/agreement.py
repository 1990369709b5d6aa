"""Does the module compute what the graph does? If not, from which layer on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError, first_line
from compressc.frontend.faithful import eval_mode
from compressc.frontend.inputs.arguments import Arguments, tensors_of
from compressc.ir import Graph, largest_error, lower
from compressc.pipeline.exactness import EXACT_TOLERANCE
from compressc.quiet import quiet

Inputs = tuple[torch.Tensor, ...]


def check_agreement(
    module: nn.Module,
    graph: Graph,
    call: Arguments,
    batches: Sequence[Inputs],
    layers: Mapping[str, str],
) -> None:
    """Run both on the same inputs and compare.

    Args:
        module: on any device.
        graph: what it has to compute.
        call: how `forward` takes the graph's inputs.
        batches: inputs of the graph, each of another batch size.
        layers: op -> path of the module that computes its value, to tell the place by.

    Raises:
        CompresscError: CC507 where the module fails, or an output is off by more than rounding.
    """
    for inputs in batches:
        with eval_mode(module), torch.no_grad(), quiet():
            wanted = [t.clone() for t in tensors_of(lower(graph)(*[t.clone() for t in inputs]))]
            got = _called(module, call, inputs)
            if not _error(got, wanted) <= EXACT_TOLERANCE:
                raise _differs(module, graph, call, inputs, layers, _error(got, wanted))


def _error(got: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    if [t.shape for t in got] != [t.shape for t in wanted]:
        return float("inf")
    return largest_error([t.cpu() for t in got], wanted)


def _called(module: nn.Module, call: Arguments, inputs: Inputs) -> list[torch.Tensor]:
    """The module's outputs.

    Raises:
        CompresscError: CC507 with the innermost module that fails.
    """
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    full = call.filled([tensor.clone().to(device) for tensor in inputs])
    inside: list[str] = []
    try:
        with _told(module, inside):
            return [t.clone() for t in tensors_of(module(*full.args, **full.kwargs))]
    except Exception as error:  # the user's forward may raise anything
        where = inside[-1] if inside else ""
        part = module.get_submodule(where) if where else module
        raise CompresscError(
            "CC507",
            "the module's own code must run with the new widths",
            got=first_line(error),
            where=f"{where or 'forward'} ({type(part).__name__})",
            hint=_hint(where, error),
        ) from error


def _hint(where: str, error: Exception) -> str:
    if isinstance(error, AttributeError) and "'Sequential'" in str(error):
        return (
            "its code reads an attribute of a layer that lowrank made two of: "
            "leave lowrank out, or use compiled.module()"
        )
    return (
        f"its code has a size that no attribute holds: prune(keep={where or '...'}*) leaves these "
        "layers, prune(attention=keep) heads; or use compiled.module()"
    )


@contextmanager
def _told(module: nn.Module, inside: list[str]) -> Iterator[None]:
    """Keep the paths of the modules that are being computed."""
    hooks = []
    for path, part in module.named_modules():

        def enter(*_: Any, path: str = path) -> None:
            inside.append(path)

        def leave(*_: Any) -> None:
            inside.pop()

        hooks += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _differs(  # noqa: PLR0913  (two computations of the same, and how far they are apart)
    module: nn.Module,
    graph: Graph,
    call: Arguments,
    inputs: Inputs,
    layers: Mapping[str, str],
    error: float,
) -> CompresscError:
    """CC507 naming the first layer whose value is another one."""
    seen: dict[str, torch.Tensor] = {}
    hooks = []
    for path in dict.fromkeys(layers.values()):

        def keep(_: Any, __: Any, value: Any, path: str = path) -> None:
            if isinstance(value, torch.Tensor):
                seen.setdefault(path, value.detach().cpu().clone())

        hooks.append(module.get_submodule(path).register_forward_hook(keep))
    try:
        _called(module, call, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    names = [op.name for op in graph if layers.get(op.name) in seen]
    _, values = lower(graph, also=names)(*inputs)
    at = "its outputs"
    for name, value in zip(names, values, strict=True):
        if not _error([seen[layers[name]]], [value]) <= EXACT_TOLERANCE:
            at = layers[name]
            break
    return CompresscError(
        "CC507",
        "the module with the new layers must compute what the graph does",
        got=f"outputs that differ by {error:.2g} of their root mean square",
        where=f"{at}, the first layer whose value differs",
        hint="in front of it the module computes with a number of its own that the graph does not "
        "have: use compiled.module(), or keep these layers",
    )
