"""A configuration of transformers that describes given weights: found by trying.

No table says which key of which family is which width. A changed configuration is built without
memory, and the shapes of its weights are held against those that are wanted: the change that comes
nearest is kept, until all are met or none comes nearer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError

#: Keys that are no width and no count of parts.
_NO_SIZE = re.compile(r"_ids?$|token|position|vocab|length|window|chunk|rate|seed|version")
#: Keys that may be left out, for a width that follows from another.
_SIZE = re.compile(r"dim|size|inner|head|channels|width")
#: Changes that are tried one after the other, and configurations that are followed, at most.
_MOST_CHANGES, _FOLLOWED = 6, 6
#: Configurations that are built in one search.
_MOST_BUILT = 400
_NUMBERS = re.compile(r"\.\d+\.")
_ATTENTION = re.compile(r"att|query|q_proj|k_proj|v_proj|o_proj|qkv|q_lin|k_lin|v_lin|out_lin")
_HEAD_DIM = "head_dim"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Described:
    """What a model is, as far as a configuration may say it.

    Attributes:
        shapes: name of each weight -> its shape.
        counts: `path.attribute` of each number that a module keeps beside its weights.
    """

    shapes: Shapes
    counts: Mapping[str, int]

    def distance(self, other: Described) -> int:
        """How much differs: one number tells heads from head widths, which several shapes do not.

        But it may be one that nothing is computed with: only weights have to be the same.
        """
        names = self.shapes.keys() | other.shapes.keys()
        shapes = sum(self.shapes.get(name) != other.shapes.get(name) for name in names)
        both = self.counts.keys() & other.counts.keys()
        return shapes + 3 * sum(self.counts[name] != other.counts[name] for name in both)


def described(model: nn.Module) -> Described:
    """What a model is."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    counts = {
        f"{path}.{name}": value
        for path, part in model.named_modules()
        for name, value in vars(part).items()
        if type(value) is int and not name.startswith("_") and not _is_torchs(part)
    }
    return Described(shapes, counts)


def _is_torchs(part: nn.Module) -> bool:
    """Its sizes are those of its weights."""
    return type(part).__module__.startswith("torch.nn.modules")


def find_config(class_: Any, config: Any, model: nn.Module) -> Any:
    """The configuration from which `class_` builds a model with the weights of another one.

    Args:
        class_: of transformers.
        config: of the uncut model, with as many blocks as `model` has; not changed.
        model: an instance of the class with other widths.

    Raises:
        CompresscError: CC503 naming the first layer that no configuration says, and the option
            that would make it one.
    """
    wanted = described(model)
    uncut = described(blank_model(class_, config, "meta")).shapes
    if set(map(_kind, uncut)) != set(map(_kind, wanted.shapes)):  # no width gives other weights
        raise _unsaid(config, uncut, wanted.shapes)
    best: tuple[int, dict[str, Any]] | None = None
    for given in _beginnings(config, wanted):
        found = _search(class_, config, given, wanted)
        if best is None or found[0] < best[0]:
            best = found
        if best[0] == 0:
            break
    assert best is not None
    nearest = _changed(config, best[1])
    shapes = described(blank_model(class_, nearest, "meta")).shapes
    if shapes != wanted.shapes:
        raise _unsaid(nearest, shapes, wanted.shapes)
    return nearest


def _beginnings(config: Any, wanted: Described) -> Iterator[dict[str, Any]]:
    """As it is; and with a head width of its own, where the models read one."""
    yield {}
    widths = {n for key, n in wanted.counts.items() if key.rpartition(".")[2] == _HEAD_DIM}
    if len(widths) == 1 and getattr(config, _HEAD_DIM, None) is None:
        yield {_HEAD_DIM: widths.pop()}


def _search(
    class_: Any, config: Any, given: dict[str, Any], wanted: Described
) -> tuple[int, dict[str, Any]]:
    """The nearest configuration by changes of one key after the other: its distance, the keys.

    Several are followed at once: heads and key heads, say, come nearer only together.
    """
    best, front = (1 << 60, given), [given]
    seen: set[tuple[tuple[str, Any], ...]] = set()
    for _ in range(_MOST_CHANGES):
        steps: list[tuple[int, dict[str, Any]]] = []
        for keys in front:
            here = _built(class_, config, keys)
            if here is None:
                continue
            distance = wanted.distance(here)
            best = min(best, (distance, keys), key=lambda one: one[0])
            for key, value in _candidates(config, keys, here, wanted):
                other = {**keys, key: value}
                state = tuple(sorted(other.items()))
                if state not in seen and len(seen) < _MOST_BUILT:
                    seen.add(state)
                    model = _built(class_, config, other)
                    if model is not None and wanted.distance(model) != distance:
                        steps.append((wanted.distance(model), other))
        front = [keys for _, keys in sorted(steps, key=lambda one: one[0])[:_FOLLOWED]]
        if best[0] == 0 or not front:
            break
    return best


def _candidates(
    config: Any, given: Mapping[str, Any], here: Described, wanted: Described
) -> Iterator[tuple[str, int]]:
    """Keys with the values that sizes which differ suggest: the same share of what they were.

    A key that is not set may have any of the new sizes.
    """
    sizes: dict[tuple[int, int], None] = {}
    for name in here.shapes.keys() & wanted.shapes.keys():
        sizes.update(_differing(here.shapes[name], wanted.shapes[name]))
    for name in here.counts.keys() & wanted.counts.keys():
        sizes.update(_differing((here.counts[name],), (wanted.counts[name],)))
    ratios = dict.fromkeys(Fraction(new, old) for old, new in sizes)
    for key, value in {**config.to_dict(), **given}.items():
        if _NO_SIZE.search(key):
            continue
        if value is None and _SIZE.search(key):
            yield from ((key, new) for new in dict.fromkeys(new for _, new in sizes))
        elif type(value) is int and value >= 1:
            found = (value * ratio for ratio in ratios)
            yield from ((key, int(n)) for n in found if n.denominator == 1 and n >= 1)


def _differing(before: tuple[int, ...], after: tuple[int, ...]) -> dict[tuple[int, int], None]:
    """Sizes before and after."""
    if len(before) != len(after):
        return {}
    pairs = zip(before, after, strict=True)
    return {(old, new): None for old, new in pairs if old != new and old > 0}


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """A configuration as it would be read from a file with these keys."""
    made = type(config).from_dict({**config.to_dict(), **changes})
    made._attn_implementation = config._attn_implementation
    return made


def _built(class_: Any, config: Any, changes: Mapping[str, Any]) -> Described | None:
    """The model of a configuration; None where transformers refuses it."""
    try:
        return described(blank_model(class_, _changed(config, changes), "meta"))
    except Exception:  # any check of any family; what cannot be is not chosen
        return None


def blank_model(class_: Any, config: Any, device: str) -> nn.Module:
    """A model with tied, uninitialized weights."""
    from transformers import initialization

    with initialization.no_init_weights(), torch.device(device):
        model: Any = class_(config)
    model.tie_weights()
    return model.eval()  # type: ignore[no-any-return]


def _unsaid(config: Any, nearest: Shapes, wanted: Shapes) -> CompresscError:
    """CC503 for the first weight that the nearest configuration does not have so."""
    name = next(n for n in {**wanted, **nearest} if wanted.get(n) != nearest.get(n))
    got = f"'{name}' {list(wanted[name])}" if name in wanted else f"no '{name}'"
    if name in nearest:
        got = f"{got}, where {type(config).__name__} gives {list(nearest[name])}"
    return CompresscError(
        "CC503",
        "a configuration of transformers must be able to say the cut",
        got=got,
        where=name.rpartition(".")[0],
        hint=_hint(name, nearest, wanted),
    )


def _kind(name: str) -> str:
    """A weight's name without the numbers of blocks."""
    return _NUMBERS.sub(".N.", name)


def _hint(name: str, nearest: Shapes, wanted: Shapes) -> str:
    alike = {shape for other, shape in wanted.items() if _kind(other) == _kind(name)}
    if name not in nearest:
        return "factors and folded norms have no key: leave lowrank and simplify out"
    if name not in wanted:
        return "a layer became another one: leave lowrank and simplify out"
    if len(alike) > 1:
        return "every block must have the same widths: prune(uniform=true)"
    if _ATTENTION.search(name):
        return "this family has no key for fewer or thinner heads: prune(attention=keep)"
    return f"no key has this width: prune(keep={name.rpartition('.')[0]}*)"
