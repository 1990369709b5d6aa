"""Einstein's notation: one label for each dimension of each operand and of the result."""

from __future__ import annotations

from collections.abc import Sequence


def labels_of(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Labels of the operands and of the result of `torch.einsum`.

    Args:
        equation: `bij,bjk->bik`; without an arrow, labels that occur once are the result's, sorted.
        ranks: rank of each operand.
    """
    terms, arrow, result = "".join(equation.split()).partition("->")
    operands = [_labels(term, rank) for term, rank in zip(terms.split(","), ranks, strict=True)]
    hidden = max(operands, key=lambda names: sum(name[0] == "." for name in names))
    dots = [name for name in hidden if name[0] == "."]
    if arrow:
        before, ellipsis, after = result.partition("...")
        return operands, [*before, *(dots if ellipsis else ()), *after]
    every = [name for names in operands for name in names if name[0] != "."]
    return operands, [*dots, *sorted(name for name in set(every) if every.count(name) == 1)]


def _labels(term: str, rank: int) -> list[str]:
    """One name per dimension; those of an ellipsis are counted from the right."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f".{i}" for i in range(hidden, 0, -1)), *after]
