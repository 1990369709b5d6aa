"""The weights in a checkpoint, wherever a trainer put them, and how they fit a module.

Trainers nest a state dict under keys of their own, beside those of optimizers and averages, and
wrappers prefix its names. So nothing is guessed from keys: what fits the module is taken, and where
several do, or none, the candidates are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir.sharing import address

#: What torch's wrappers put into the middle of names.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DEEPEST, _MOST, _NAMED = 5, 10_000, 5
_NOT_NEEDED = "num_batches_tracked"  # counts steps of training; old checkpoints have none


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and where in the checkpoint they are (`model.state_dict`)."""

    key: str
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Fit:
    """How tensors fit a module.

    Attributes:
        key: where the tensors are, and the prefix their names have there.
        taken: name in the module -> tensor.
        missing: names of the module that are not there.
        wrong: names whose tensor has another shape.
        extra: names there that the module does not have, under the same prefix.
        outside: names there under other prefixes.
    """

    key: str
    taken: dict[str, torch.Tensor]
    missing: list[str]
    wrong: list[str]
    extra: list[str]
    outside: list[str]

    @property
    def is_full(self) -> bool:
        """Whether the module has all its tensors."""
        return not self.missing and not self.wrong


def find_weights(value: Any, key: str = "", depth: int = 0) -> Iterator[Weights]:
    """Every mapping of names to tensors in nested containers, the outer ones first."""
    if depth > _DEEPEST or not isinstance(value, Mapping | list | tuple):
        return
    items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
    tensors = {k: t for k, t in items if isinstance(k, str) and isinstance(t, torch.Tensor)}
    if tensors:
        yield Weights(key, tensors)
    for name, inner in items[:_MOST]:
        yield from find_weights(inner, f"{key}.{name}".lstrip("."), depth + 1)


def choose_fit(
    module: nn.Module,
    found: Sequence[Weights],
    *,
    state_key: str | None,
    ignore_extra: bool,
    where: str,
) -> Fit:
    """The one set of weights that fits a module.

    Raises:
        CompresscError: CC200 where none fits, or several that differ.
    """
    own = module.state_dict()
    fits = [fit for weights in found for fit in _fits(own, weights)]
    if state_key is not None:
        fits = [fit for fit in fits if fit.key == state_key]
        if not fits:
            hint = f"--state-key is one of {_listed([w.key for w in found if w.key])}"
            raise _refused(f"no weights under '{state_key}'", where, hint)
    full = [fit for fit in fits if fit.is_full]
    full = [fit for fit in full if not fit.extra] or full
    others = [fit for fit in full if not _same(fit, full[0])]
    if others:
        names = [fit.key or "the file itself" for fit in (full[0], *others)]
        hint = f"say which: --state-key {names[0]}"
        raise _refused(f"{len(names)} sets of weights that fit: {_listed(names)}", where, hint)
    if not full or (full[0].extra and not ignore_extra):
        closest = max(fits, key=lambda fit: (len(fit.taken) - 2 * len(fit.wrong), -len(fit.key)))
        raise _misfit(full[0] if full else closest, found, where)
    _check_numbers(full[0], own, where)
    return full[0]


def _fits(own: Mapping[str, torch.Tensor], weights: Weights) -> Iterator[Fit]:
    """The fit under each prefix that the names may have, in the file or in the module."""
    there = {_WRAPPERS.sub("", name): tensor for name, tensor in weights.tensors.items()}
    plain = {_WRAPPERS.sub("", name): name for name in own}
    ends = sorted(plain, key=len)[-3:]  # a few, for one may be missing
    prefixes = {n.removesuffix(e) for e in ends for n in there if f".{n}".endswith(f".{e}")}
    for prefix in sorted({"", *prefixes}):
        names = {name: prefix + short for short, name in plain.items()}
        yield _fit(own, there, names, prefix, weights.key)
    ends = sorted(there, key=len)[-3:]
    for prefix in sorted({n.removesuffix(e) for e in ends for n in plain if n.endswith(f".{e}")}):
        names = {name: short.removeprefix(prefix) for short, name in plain.items()}
        yield _fit(own, there, names, "", weights.key)


def _fit(
    own: Mapping[str, torch.Tensor],
    there: Mapping[str, torch.Tensor],
    names: Mapping[str, str],
    prefix: str,
    key: str,
) -> Fit:
    taken = {name: there[other] for name, other in names.items() if other in there}
    present = {_place(own[name]) for name in taken}
    missing = [
        name
        for name, tensor in own.items()
        if name not in taken and not name.endswith(_NOT_NEEDED) and _place(tensor) not in present
    ]
    wrong = [name for name, tensor in taken.items() if tensor.shape != own[name].shape]
    left = [name for name in there if name not in {names[taken_name] for taken_name in taken}]
    return Fit(
        ".".join(part for part in (key, prefix.rstrip(".")) if part),
        taken,
        missing,
        wrong,
        [name for name in left if name.startswith(prefix)],
        [name for name in left if not name.startswith(prefix)],
    )


def _place(tensor: torch.Tensor) -> Any:
    """Equal for tensors of a module that are tied: a file may hold one of them only."""
    if not tensor.numel() or tensor.is_meta:
        return id(tensor)
    return address(tensor), tuple(tensor.shape), tensor.stride()


def _same(one: Fit, other: Fit) -> bool:
    return one.taken.keys() == other.taken.keys() and all(
        tensor is other.taken[name]
        or (tensor.dtype == other.taken[name].dtype and torch.equal(tensor, other.taken[name]))
        for name, tensor in one.taken.items()
    )


def _check_numbers(fit: Fit, own: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse what torch would convert in silence into other numbers, or fail on."""
    for name, tensor in fit.taken.items():
        floats = own[name].is_floating_point()
        if own[name].is_meta:
            raise _refused("a module on the meta device", where, "let the factory build it on cpu")
        if tensor.layout != torch.strided:
            raise _refused(f"{name} as a sparse tensor", where, "save it as tensor.to_dense()")
        if tensor.is_meta:
            hint = "save it where it has its numbers, after they were loaded"
            raise _refused(f"{name} without numbers, on the meta device", where, hint)
        if tensor.is_complex() and not own[name].is_complex():
            raise _refused(f"{name} in complex numbers", where, "give real weights")
        if tensor.is_quantized or (floats and not tensor.dtype.is_floating_point):
            hint = "give the float weights it was quantized from"
            raise _refused(f"{name} in {_dtype(tensor)}, which is quantized", where, hint)


def _misfit(fit: Fit, found: Sequence[Weights], where: str) -> CompresscError:
    problems = [
        f"{len(names)} {what} ({_listed(sorted(names))})"
        for what, names in (
            ("missing", fit.missing),
            ("unexpected", fit.extra),
            ("of another shape", fit.wrong),
        )
        if names
    ]
    hint = "use the factory the weights were trained with"
    if any("_packed_params" in name for name in (*fit.extra, *fit.outside)):
        hint = "these are quantized weights: give the float weights they were made from"
    elif fit.is_full:
        hint += ", or leave the unexpected ones out with --ignore-extra"
    elif len(found) > 1:
        keys = [weights.key or "the file itself" for weights in found]
        hint += f"; tensors were found under {_listed(keys)} (--state-key)"
    return _refused("; ".join(problems), where, hint)


def _refused(got: str, where: str, hint: str) -> CompresscError:
    wanted = "the weights must fit the module that the factory builds"
    return CompresscError("CC200", wanted, got=got, where=where, hint=hint)


def fill(module: nn.Module, fit: Fit, where: str) -> tuple[str, ...]:
    """Copy the weights into the module.

    Returns:
        Notes on where they were, what was left out, and on other dtypes.

    Raises:
        CompresscError: CC200 where the module does not take them.
    """
    own = module.state_dict()
    try:
        module.load_state_dict(fit.taken, strict=False)
    except RuntimeError as error:
        raise _refused(str(error).splitlines()[-1].strip(), where, "check the factory") from error
    return tuple(_notes(fit, own))


def _notes(fit: Fit, own: Mapping[str, torch.Tensor]) -> Iterator[str]:
    if fit.key:
        yield f"the weights are those under '{fit.key}' in the file"
    if fit.extra or fit.outside:
        names = sorted([*fit.extra, *fit.outside])
        yield f"{len(names)} tensors of the file are not used: {_listed(names)}"
    stored = {(_dtype(t), _dtype(own[n])) for n, t in fit.taken.items() if t.dtype != own[n].dtype}
    for there, here in sorted(stored):
        yield f"weights stored as {there} were read into a module of {here}"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
