"""What `forward` is called with: nested arguments, and the flat inputs a graph has for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from compressc.errors import CompresscError
from compressc.ir import Graph

#: Tensors and constants, in tuples, lists and dicts, as a caller gives them: a tuple holds the
#: positional arguments of `forward`, a dict its keyword arguments.
Example = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Arguments:
    """One call of `forward`.

    The inputs of a graph are the tensors in here: positional arguments first, then keywords, each
    as it is nested, in order. What is no tensor (`None`, a flag, a number) is a constant.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def leaves(self) -> tuple[Any, ...]:
        """Everything that is no container."""
        return tuple(pytree.tree_leaves((self.args, self.kwargs)))

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The inputs of the graph, in its order."""
        return tensors_of(self.leaves)

    def map(self, change: Callable[[Any], Any]) -> Arguments:
        """The same arguments with every leaf changed."""
        args, kwargs = pytree.tree_map(change, (self.args, self.kwargs))
        return Arguments(args, kwargs)

    def filled(self, tensors: Sequence[torch.Tensor]) -> Arguments:
        """The same arguments with other tensors, as many as there are."""
        spare = iter(tensors)
        return self.map(lambda leaf: next(spare) if isinstance(leaf, torch.Tensor) else leaf)


def tensors_of(tree: Any) -> tuple[torch.Tensor, ...]:
    """The tensors in nested containers, in order."""
    return tuple(leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def arguments_of(example: Example) -> Arguments:
    """A caller's example as arguments.

    Raises:
        CompresscError: CC204 for what is neither a sequence nor a dict of names.
    """
    if isinstance(example, torch.Tensor):
        return Arguments((example,), {})
    if isinstance(example, Mapping):
        if all(isinstance(name, str) for name in example):
            return Arguments((), dict(example))
    elif isinstance(example, Sequence) and not isinstance(example, str | bytes):
        return Arguments(tuple(example), {})
    raise CompresscError(
        "CC204",
        "an example is a tuple of positional arguments or a dict of keyword arguments",
        got=type(example).__name__,
    )


def graph_inputs(graph: Graph, example: Example) -> tuple[torch.Tensor, ...]:
    """The tensors of an example in the order of a graph's inputs; a dict goes by name.

    Raises:
        CompresscError: CC204 for a name that is no input.
    """
    arguments = arguments_of(example)
    names = [op.name for op in graph.inputs]
    if not arguments.kwargs:
        return arguments.tensors
    found = {"_".join(path): leaf for path, leaf in _paths(arguments.kwargs)}
    tensors = {name: leaf for name, leaf in found.items() if isinstance(leaf, torch.Tensor)}
    if tensors.keys() != set(names):
        raise CompresscError(
            "CC204",
            f"the inputs are called {', '.join(names)}",
            got=", ".join(tensors),
            hint="name the inputs of the data, or of the example, as the model does",
        )
    return tuple(tensors[name] for name in names)


def _paths(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf with its keys and positions, as torch.export names inputs after them."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _paths(value, (*path, str(key)))
    elif isinstance(tree, list | tuple):
        for position, value in enumerate(tree):
            yield from _paths(value, (*path, str(position)))
    else:
        yield path, tree


def nest(leaves: Sequence[tuple[str, Any]]) -> Arguments:
    """Arguments from paths: `""` positional, `x` a keyword, `batch.ids` in a dict, `pair.0` in a
    tuple.

    Raises:
        CompresscError: CC204 where the paths contradict each other or jump between arguments.
    """
    first = next((i for i, (path, _) in enumerate(leaves) if path), len(leaves))
    kwargs: dict[str, Any] = {}
    for path, value in leaves[first:]:
        *folders, last = path.split(".")
        place: Any = kwargs
        for part in folders:
            place = place.setdefault(part, {})
            if isinstance(place, _Leaf):
                raise _bad_path(path, "an input of that name has no parts")
        if last in place or not last:
            raise _bad_path(path, "the same name twice" if last else "no name")
        place[last] = _Leaf(value)
    named = {name: _tuples(value) for name, value in kwargs.items()}
    nested = Arguments(tuple(value for _, value in leaves[:first]), named)
    if [id(leaf) for leaf in nested.leaves] != [id(value) for _, value in leaves]:
        order = ", ".join(path for path, _ in leaves)
        raise _bad_path(order, "another order: the parts of one argument stand together")
    return nested


@dataclass(frozen=True)
class _Leaf:
    """A value that may itself be a dict, so that it is not taken for a level of the path."""

    value: Any


def _tuples(tree: Any) -> Any:
    """Levels whose keys are 0, 1, ... are tuples, others dicts."""
    if isinstance(tree, _Leaf):
        return tree.value
    parts = {key: _tuples(value) for key, value in tree.items()}
    if list(parts) == [str(position) for position in range(len(parts))]:
        return tuple(parts.values())
    return parts


def check_leaves(arguments: Arguments) -> None:
    """See that there is nothing but tensors and constants.

    Raises:
        CompresscError: CC204 for an object that torch.export cannot look into, or without tensors.
    """
    for leaf in arguments.leaves:
        if not isinstance(leaf, torch.Tensor | bool | int | float | str | None):
            raise CompresscError(
                "CC204",
                "inputs are tensors and constants in tuples, lists and dicts",
                got=type(leaf).__name__,
                hint="take a dict instead, or torch.export.register_dataclass",
            )
    if not arguments.tensors:
        raise CompresscError("CC204", "a model is traced with at least one tensor", got="none")


def check_names(
    module: nn.Module, names: Sequence[str], *, listed: bool = False, where: str = "--input"
) -> None:
    """See that `forward` has keyword arguments of these names.

    Args:
        module: its `forward` is looked at.
        names: of the inputs.
        listed: refuse names that only `**kwargs` would take, which may ignore them.
        where: who gave the names.

    Raises:
        CompresscError: CC204 for a name it does not have.
    """
    parameters = inspect.signature(module.forward).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not listed
    unknown = [name for name in names if name not in parameters and not open_ended]
    if unknown:
        raise CompresscError(
            "CC204",
            f"the inputs of {type(module).__name__} are called {', '.join(parameters) or '(none)'}",
            got=", ".join(unknown),
            where=where,
            hint="parts of a dict or tuple are written `batch.ids` or `pair.0`; in Python, "
            "example=(batch,) passes a dict as the first argument",
        )


def _bad_path(path: str, got: str) -> CompresscError:
    return CompresscError(
        "CC204",
        "inputs are named x, or batch.ids and pair.0 within a dict or a tuple",
        got=got,
        where=f"--input {path}",
    )
