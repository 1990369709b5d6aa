"""`check_importance`: what every importance must do, by draws of weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from compressc.importance import Importance, Member, Together

#: Sizes of the width that are drawn, and columns of the members' rows.
SIZES, COLUMNS = (1, 2, 9), (1, 6)


def check_importance(importance: Importance) -> None:
    """Score widths of several sizes, and check what must hold of every importance.

    There is one number for each index, finite and at least 0; the same width has the same scores;
    an index keeps its score wherever it stands, unless it is drawn at random; nothing that was
    shown is changed; a width whose weights are all zero, and one that no weight speaks for, have
    scores, too.

    Args:
        importance: with its options.

    Raises:
        AssertionError: where anything does not hold.
    """
    for size in SIZES:
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(size))
        _check(importance, size, _members(size, draw))
        _check(importance, size, _members(size, torch.zeros))
        _check(importance, size, ())


def _check(importance: Importance, size: int, members: tuple[Member, ...]) -> None:
    before = [member.weights.clone() for member in members]
    score = _score(importance, size, members)
    assert score.shape == (size,), f"a score for each of {size} indices, not {tuple(score.shape)}"
    assert bool(torch.isfinite(score).all()), f"scores are finite: {score.tolist()}"
    assert bool((score >= 0).all()), f"scores are at least 0: {score.tolist()}"
    assert torch.equal(score, _score(importance, size, members)), "the same width, other scores"
    for member, was in zip(members, before, strict=True):
        assert torch.equal(member.weights, was), "the weights that were shown were changed"
    order = torch.arange(size).flip(0)
    turned = _score(importance, size, tuple(_reordered(member, order) for member in members))
    if members and not _is_random(importance):
        assert torch.allclose(turned, score[order], rtol=1e-4), "the score goes by the place"


def _is_random(importance: Importance) -> bool:
    """Whether it scores equal weights differently by another generator."""
    a, b = (_score(importance, 8, (), seed) for seed in (0, 1))
    return not torch.equal(a, b)


def _score(importance: Importance, size: int, members: tuple[Member, ...], seed: int = 0) -> Tensor:
    return importance.score(Together(size, members, torch.Generator().manual_seed(seed)))


def _members(size: int, values: Callable[..., Tensor]) -> tuple[Member, ...]:
    few, many = COLUMNS
    shapes = (
        ("make", "makes", "linear", many),
        ("scale", "scales", "batch_norm2d", few),
        ("read", "reads", "conv2d", many),
    )
    return tuple(
        Member(
            op,
            side,  # type: ignore[arg-type]
            kind,
            values(size, count),
            gradients=values(size, count),
            squared_gradients=values(size, count).square(),
            inputs=values(size, count).abs() if side == "reads" else None,
        )
        for op, side, kind, count in shapes
    )


def _reordered(member: Member, order: Tensor) -> Member:
    """The same member with its indices in another order."""

    def turned(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else rows[order]

    return Member(
        member.op,
        member.side,
        member.kind,
        member.weights[order],
        turned(member.gradients),
        turned(member.squared_gradients),
        turned(member.inputs),
    )
