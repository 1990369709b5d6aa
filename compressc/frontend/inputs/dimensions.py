"""The open dimensions of an exported program: their letters, their limits, sizes made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._sympy.numbers import int_oo

from compressc.errors import CompresscError
from compressc.ir import symbol
from compressc.ir.types import Size, simplify_size


class OpenDimensions:
    """Symbols of torch.export -> symbols of the IR.

    Args:
        ranges: what the trace found out about each symbol (`range_constraints`).
        shapes: the shape of each input in the user's letters, in order; none where there are no
            letters. Equal letters are equal sizes, also where the program would take others.
        limits: filled with the least and largest size of each dimension that has any.
    """

    def __init__(
        self,
        ranges: Mapping[Any, Any],
        shapes: Iterable[Sequence[Size]],
        limits: dict[str, tuple[int, int | None]],
    ) -> None:
        self._ranges, self._shapes, self._limits = ranges, iter(shapes), limits
        self._letters: dict[Any, str] = {}
        self._symbols: dict[Any, Size] = {}

    def name(self, shape: Sequence[Any]) -> None:
        """Name the open dimensions of the next input: the first one of all is `b`."""
        letters = next(self._shapes, ())
        for dim, size in enumerate(shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                found = size.node.expr
                letter = letters[dim] if letters else found
                name = self._letters.setdefault(letter, self._letter(letters, dim))
                named = self._symbols.setdefault(found, symbol(name))
                self._limit(str(named), self._ranges.get(found))

    def _letter(self, letters: Sequence[Size], dim: int) -> str:
        taken = {*self._letters.values(), *([] if dim == 0 else ["b"])}
        wishes = ["b"] if dim == 0 else []
        wishes += [*([str(letters[dim])] if letters else []), "s", *(f"s{i}" for i in range(1, 99))]
        return next(wish for wish in wishes if wish not in taken)

    def _limit(self, name: str, found: Any) -> None:
        """Keep what the trace found out; torch takes no open size for less than 2."""
        least, most = self._limits.get(name, (1, None))
        if found is not None and found.lower > 2:
            least = max(least, int(found.lower))
        if found is not None and found.upper != int_oo:
            upper = int(found.upper)
            most = upper if most is None else min(most, upper)
        if (least, most) != (1, None):
            self._limits[name] = (least, most)

    def size(self, size: Any, where: str = "") -> Size:
        """A size of the program as the IR writes it.

        Args:
            size: of a value.
            where: the call that makes it, for the error.

        Raises:
            CompresscError: CC202 where it depends on the values of a tensor.
        """
        if isinstance(size, int):
            return size
        expr = size.node.expr.xreplace(self._symbols)
        if not expr.free_symbols <= set(self._symbols.values()):
            raise CompresscError(
                "CC202",
                "sizes must follow from the inputs' sizes alone",
                got=str(expr),
                where=where,
                hint="nonzero, item and boolean masks make sizes depend on tensor values; an "
                "expert can compute all rows, weighted with 0 where it is not chosen",
            )
        return simplify_size(expr)
