"""Quantizing what nncf can, where it fails on some of it: find the ops it fails on, hide those."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import fx

from compressc.errors import CompresscError
from compressc_quant.hiding import hidden

#: Calls of nncf that looking for what it fails on may take: a few ops among thousands.
MOST_TRIES = 24

#: Quantizes the module as it stands. Raises CC601 where nncf fails.
Attempt = Callable[[], fx.GraphModule]


def quantize_what_can(
    module: fx.GraphModule, known: Mapping[str, str], attempt: Attempt, probe: Attempt
) -> tuple[fx.GraphModule, dict[str, str]]:
    """nncf's quantized module, and what had to be hidden from nncf for it.

    Args:
        module: what is quantized; its calls are hidden while nncf looks at it.
        known: nodes to hide from the beginning: name -> why.
        attempt: the whole work.
        probe: a cheap form of it that fails where it does.

    Returns:
        The module, and all that is hidden: node name -> why.

    Raises:
        CompresscError: CC601 where nncf fails whatever is hidden.
    """
    reasons = dict(known)
    try:
        return _with(module, reasons, attempt), reasons
    except CompresscError as error:
        first = error
    calls = [node.name for node in module.graph.nodes if node.op == "call_function"]
    for name in _Search(module, calls, probe).culprits(reasons, first):
        reasons.setdefault(name, f"nncf fails on it ({first.got})")
    return _with(module, reasons, attempt), reasons


class _Search:
    """Finds a small set of calls without which nncf works, in a bounded number of tries."""

    def __init__(self, module: fx.GraphModule, calls: Sequence[str], probe: Attempt) -> None:
        self.module, self.calls, self.probe, self.tries = module, calls, probe, 0

    def culprits(self, known: Mapping[str, str], first: CompresscError) -> list[str]:
        """Names of calls to hide beside those known."""
        named = self._named(known, first)
        if named and self._works([*known, *named]):
            return named
        if not self._works(self.calls):
            raise first
        found: list[str] = []
        end = len(self.calls)
        while not self._works([*known, *found]):
            end = self._shortest_prefix([*known, *found], end)
            found.append(self.calls[end - 1])
            if self.tries >= MOST_TRIES:  # what is left to look through stays float as a whole
                return [*self.calls[: end - 1], *found]
            end -= 1
        return found

    def _named(self, known: Mapping[str, str], error: CompresscError) -> list[str]:
        words = set(re.findall(r"\w+", str(error.__cause__ or error)))
        return [name for name in self.calls if name in words and name not in known]

    def _shortest_prefix(self, known: Sequence[str], end: int) -> int:
        """How many of the first calls must be hidden; all of the first `end` are known to do."""
        low, high = 0, end
        while high - low > 1 and self.tries < MOST_TRIES:
            middle = (low + high) // 2
            if self._works([*known, *self.calls[:middle]]):
                high = middle
            else:
                low = middle
        return high

    def _works(self, names: Sequence[str]) -> bool:
        self.tries += 1
        try:
            _with(self.module, dict.fromkeys(names, ""), self.probe)
        except CompresscError:
            return False
        return True


def _with(module: fx.GraphModule, names: Mapping[str, str], attempt: Attempt) -> fx.GraphModule:
    with hidden(module, names):
        return attempt()
