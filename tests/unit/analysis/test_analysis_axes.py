"""Axes against brute force: tensors whose entries are their own indices tell the truth."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressc.analysis import Axis, kept_indices
from compressc.analysis.axes import (
    align,
    concat_axes,
    factors,
    find,
    freeze,
    leaves,
    mark_normalized,
    reshape_axes,
    split_axis,
    unify,
)

QUICK = settings(max_examples=150, deadline=None)


def kept_by_force(values: np.ndarray, dim: int, alive: np.ndarray) -> list[int]:
    """Indices of a dimension where anything alive is left; alive says so for each tag."""
    rest = tuple(d for d in range(values.ndim) if d != dim)
    return np.flatnonzero(alive[values].any(axis=rest)).tolist()


def cut(axis_sizes: tuple[int, ...], which: int, keep: list[int]) -> np.ndarray:
    """alive[tag] of a tensor of those sizes when one dimension keeps only some indices."""
    alive = np.zeros(axis_sizes, bool)
    alive[(slice(None),) * which + (keep,)] = True
    return alive.reshape(-1)


@st.composite
def factored(draw: st.DrawFn) -> tuple[tuple[int, ...], list[list[int]]]:
    """Sizes of dimensions, and a grouping of neighbours that a reshape merges."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    cuts = draw(st.lists(st.booleans(), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    groups = [[0]]
    for i, starts in enumerate(cuts, 1):
        if starts:
            groups.append([i])
        else:
            groups[-1].append(i)
    return sizes, groups


@QUICK
@given(factored(), st.data())
def test_reshape_and_permute(shape, draw):
    """Split dimensions, move them, merge others: what a cut keeps, everywhere."""
    sizes, groups = shape
    tags = np.arange(int(np.prod(sizes))).reshape(sizes)
    order = draw.draw(st.permutations(range(len(sizes))))
    merged = [int(np.prod([sizes[i] for i in group])) for group in groups]
    start = tuple(Axis(n) for n in merged)
    split = reshape_axes(start, sizes)
    moved = tuple(split[i] for i in order)
    flat = reshape_axes(moved, [tags.size])
    values = {start: tags.reshape(merged), split: tags, moved: tags.transpose(order)}
    values[flat] = tags.transpose(order).reshape(tags.size)
    wide = [i for i, n in enumerate(sizes) if n > 1]
    if not wide:
        return
    which = draw.draw(st.sampled_from(wide))
    keep = sorted(draw.draw(st.sets(st.integers(0, sizes[which] - 1), min_size=1)))
    (leaf,) = leaves(split[which])
    alive = cut(sizes, which, keep)
    for axes, value in values.items():
        for dim, axis in enumerate(axes):
            assert axis.size == value.shape[dim]
            got = kept_indices(axis, {leaf: torch.tensor(keep)}).tolist()
            assert got == kept_by_force(value, dim, alive)


@QUICK
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_concat_and_split(sizes, draw):
    """A concatenation keeps what its parts keep; splitting it again gives the parts."""
    parts = [Axis(n) for n in sizes]
    whole = concat_axes(parts)
    tags = np.concatenate([np.full(n, i) * 100 + np.arange(n) for i, n in enumerate(sizes)])
    which = draw.draw(st.integers(0, len(sizes) - 1))
    keep = sorted(draw.draw(st.sets(st.integers(0, sizes[which] - 1), min_size=1)))
    got = kept_indices(whole, {parts[which]: torch.tensor(keep)})
    gone = [which * 100 + i for i in range(sizes[which]) if i not in keep]
    assert got.tolist() == np.flatnonzero(~np.isin(tags, gone)).tolist()
    assert [find(p) for p in split_axis(whole, sizes)] == [find(p) for p in parts]


@QUICK
@given(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=1, max_size=3), st.data())
def test_unify_is_sound_or_freezes(sizes, draw):
    """Two factorizations of one size: every cut that stays possible keeps the same of both."""
    total = int(np.prod(sizes))
    other = draw.draw(st.permutations(sizes))
    a, b = Axis(total), Axis(total)
    left, right = reshape_axes((a,), sizes), reshape_axes((b,), other)
    unify(a, b)
    for leaf in {id(x): x for axis in (*left, *right) for x in leaves(axis)}.values():
        if leaf.frozen or leaf.size == 1:
            continue
        keep = {leaf: torch.arange(leaf.size)[::2]}
        assert kept_indices(a, keep).tolist() == kept_indices(b, keep).tolist()


def test_one_axis_twice_in_a_product():
    """An outer product, flattened and unflattened otherwise: 6*6 as 6*2*3 cuts 6 as 2*3, too."""
    axis = Axis(6)
    whole = Axis(36)
    assert align((axis, axis), (whole,))
    parts = tuple(Axis(n) for n in (6, 2, 3))
    assert align((axis, axis), parts)
    assert [leaf.size for leaf in leaves(axis)] == [2, 3]
    assert leaves(axis) == leaves(parts[0]) == [*leaves(parts[1]), *leaves(parts[2])]
    outer = leaves(axis)[0]
    kept = kept_indices(whole, {outer: torch.tensor([1])}).tolist()
    assert kept == [6 * i + j for i in (3, 4, 5) for j in (3, 4, 5)]


def test_sizes_that_cannot_agree_freeze_both():
    a, b = (Axis(3), Axis(4)), (Axis(2), Axis(6))
    assert not align(a, b)
    for axis in (*a, *b):
        assert all(leaf.frozen == "reshaped in ways that do not line up" for leaf in leaves(axis))


def test_different_sizes_are_never_one():
    a, b = Axis(3), Axis(4)
    unify(a, b)
    assert find(a) is not find(b)
    assert (a.frozen, b.frozen) == ("sizes differ", "sizes differ")


def test_what_is_known_goes_down_to_the_parts_and_over_to_the_other():
    whole, other = Axis(12), Axis(12)
    parts = reshape_axes((whole,), (3, 4))
    freeze(other, "because")
    mark_normalized(other)
    unify(whole, other)
    assert [leaf.frozen for axis in parts for leaf in leaves(axis)] == ["because", "because"]
    assert all(leaf.normalized for leaf in leaves(whole))


def test_ones_are_no_factors():
    axis = Axis(8)
    before, after = reshape_axes((Axis(1), axis, Axis(1)), (8, 1, 1, 1))[0], axis
    assert find(before) is find(after)
    assert factors(Axis(1)) == []


def test_a_concatenation_and_a_product_of_one_size_freeze():
    joined = concat_axes((Axis(4), Axis(4)))
    product = Axis(8)
    reshape_axes((product,), (2, 4))
    unify(joined, product)
    assert all(leaf.frozen for leaf in (*leaves(joined), *leaves(product)))


def test_a_product_cannot_be_split_in_pieces():
    axis = Axis(12)
    reshape_axes((axis,), (3, 4))
    pieces = split_axis(axis, (6, 6))
    assert all(leaf.frozen for leaf in (*leaves(axis), *pieces))
