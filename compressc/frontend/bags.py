"""Bags of embeddings as look-ups and sums, while a model is traced and in programs traced before.

`aten.embedding_bag` has bookkeeping results that no other operator and no runtime knows; a look-up
is a layer, which passes and formats take.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from compressc.frontend.rewriting import arguments_of, traced

#: Calls with (weight, ids, offsets, ...), which look up and reduce; result 0 is what they are for.
CALLS = (
    "aten.embedding_bag",
    "aten.embedding_bag.padding_idx",
    "aten._embedding_bag",
    "aten._embedding_bag_forward_only",
)
_MODES = ("sum", "mean", "max")


@contextmanager
def plain_bags() -> Iterator[None]:
    """Let `F.embedding_bag`, which `nn.EmbeddingBag` calls, look up and reduce."""
    original = F.embedding_bag

    def bag(ids: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return _bag(original, ids, weight, *args, **kwargs)

    F.embedding_bag = bag  # type: ignore[assignment]
    try:
        yield
    finally:
        F.embedding_bag = original


def _bag(  # noqa: PLR0913  (the arguments of F.embedding_bag)
    original: Any,
    ids: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> torch.Tensor:
    """`F.embedding_bag`: ids [bags, n], or [n] with the offsets of the bags; [bags, width]."""
    if max_norm is not None or ids.dim() not in (1, 2) or (ids.dim() == 1) == (offsets is None):
        return original(  # type: ignore[no-any-return]
            ids, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse,
            per_sample_weights, include_last_offset, padding_idx,
        )  # fmt: skip
    rows = F.embedding(ids, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    counted = None
    if padding_idx is not None:
        index = padding_idx if padding_idx >= 0 else padding_idx + weight.shape[0]
        counted = (ids != index).unsqueeze(-1)
    if offsets is None:
        return _of_rows(rows, counted, mode)
    starts = offsets[:-1] if include_last_offset else offsets
    place = torch.arange(ids.shape[0]).unsqueeze(1)
    bags = (place >= starts.unsqueeze(0)).sum(1) - 1
    return _of_offsets(rows, counted, bags, starts, mode)


def _of_rows(rows: torch.Tensor, counted: torch.Tensor | None, mode: str) -> torch.Tensor:
    """Rows [bags, n, width], each bag reduced; one that is all padding is 0."""
    if counted is None:
        if mode == "max":
            return rows.amax(1)
        return rows.sum(1) if mode == "sum" else rows.mean(1)
    if mode == "max":
        found = rows.masked_fill(~counted, float("-inf")).amax(1)
        return torch.where(counted.any(1), found, 0.0)
    total = (rows * counted).sum(1)
    return total if mode == "sum" else total / counted.sum(1).clamp_min(1)


def _of_offsets(
    rows: torch.Tensor,
    counted: torch.Tensor | None,
    bags: torch.Tensor,
    starts: torch.Tensor,
    mode: str,
) -> torch.Tensor:
    """Rows [n, width] reduced by the bag of each; an empty bag is 0."""
    kept = torch.ones_like(bags).unsqueeze(-1) if counted is None else counted.to(bags.dtype)
    zeros = rows.new_zeros((starts.shape[0], rows.shape[1]))
    counts = kept.new_zeros((starts.shape[0], 1)).index_add(0, bags, kept)
    if mode == "max":
        lowest = torch.where(kept > 0, rows, float("-inf"))
        place = bags.unsqueeze(1).expand_as(rows)
        found = (zeros - float("inf")).scatter_reduce(0, place, lowest, "amax")
        return torch.where(counts > 0, found, 0.0)
    total = zeros.index_add(0, bags, rows * kept)
    return total if mode == "sum" else total / counts.clamp_min(1)


def body_of(call: fx.Node) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """What one of `CALLS` computes, as a graph of a look-up and a reduction, and its operands.

    Bags of one length, which torch flattens and gives offsets of even steps, are rows again.

    Returns:
        None where the bookkeeping results are read, too.
    """
    if any(user.args[1] != 0 and user.users for user in call.users):
        return None
    given = arguments_of(call)
    tensors = {key: given.get(key) for key in ("indices", "offsets", "per_sample_weights")}
    last, padding = bool(given.get("include_last_offset")), given.get("padding_idx")
    if padding is not None and padding < 0 and call.target.name().startswith("aten::_"):  # type: ignore[union-attr]
        padding = None  # how the inner forms write it
    if not last and (rows := _as_rows(tensors)) is not None:
        tensors = rows
    used = {key: node for key, node in tensors.items() if node is not None}

    def body(weight: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        by_name = dict(zip(used, values, strict=True))
        return _bag(
            None,
            by_name["indices"],
            weight,
            by_name.get("offsets"),
            mode=_MODES[given.get("mode", 0)],
            per_sample_weights=by_name.get("per_sample_weights"),
            include_last_offset=last,
            padding_idx=padding,
        )

    operands = [given["weight"], *used.values()]
    return traced(body, operands, call), operands


def _as_rows(tensors: dict[str, fx.Node | None]) -> dict[str, fx.Node | None] | None:
    """Ids [bags, n] and weights of what `F.embedding_bag` made flat, where it was that."""
    found: dict[str, fx.Node | None] = {"indices": None, "per_sample_weights": None}
    starts = tensors["offsets"]
    if starts is None or _name(starts) != "arange.start_step" or starts.args[0] != 0:
        return None
    for key in found:
        flat = tensors[key]
        if flat is None:
            continue
        source = flat.args[0] if flat.args else None
        if _name(flat) not in ("reshape", "view") or not isinstance(source, fx.Node):
            return None
        step = starts.args[2]
        bags = (*starts.meta["val"].shape, step.meta["val"] if isinstance(step, fx.Node) else step)
        # as texts: a comparison of open sizes would close them
        if [*map(str, source.meta["val"].shape)] != [*map(str, bags)]:
            return None
        found[key] = source
    return found


def _name(node: fx.Node) -> str:
    target = node.target
    return str(target).removeprefix("aten.").removesuffix(".default")
