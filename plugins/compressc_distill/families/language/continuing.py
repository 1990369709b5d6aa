"""Text that a language model writes itself, word by word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.ir import Graph, TensorType
from compressc.tasks import find_responses
from compressc.tasks.language_model import IDS, MASK

#: Scores of the next word `[b, s, v]` for inputs of a model.
Scores = Callable[[Sequence[Tensor]], Tensor]
#: How far scores may move by what stands behind them, as rounding does.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Page:
    """Where a model has its text.

    Attributes:
        ids: place of the ids among its inputs.
        mask: place of the attention mask, or None.
        length: of its texts; None where any will do.
    """

    ids: int
    mask: int | None
    length: int | None

    @classmethod
    def of(cls, graph: Graph) -> Page:
        """As the inputs of a model have it.

        Raises:
            CompresscError: CC204 where it takes more than ids `[b, s]` and their mask.
        """
        names = [op.name for op in graph.inputs]
        texts = [i for i, op in enumerate(graph.inputs) if _is_text(op.type)]
        mask = names.index(MASK) if MASK in names else None
        ids = names.index(IDS) if IDS in names else next((i for i in texts if i != mask), None)
        if ids is None or {ids, mask} - {None} != set(range(len(names))):
            raise CompresscError(
                "CC204",
                "a model that writes text takes ids [b, s], and their attention mask",
                got=", ".join(f"{op.name}: {op.type}" for op in graph.inputs) or "no input",
                where=graph.name,
            )
        type_ = graph.inputs[ids].type
        assert isinstance(type_, TensorType)
        size = type_.shape[1]
        return cls(ids, mask, size if isinstance(size, int) else None)

    def inputs(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Of the model, in its order."""
        if self.mask is None:
            return (ids,)
        mask = torch.ones_like(ids) if mask is None else mask.to(ids.dtype)
        return (ids, mask) if self.ids < self.mask else (mask, ids)


def scores_in(graph: Graph) -> str:
    """The value with scores of each word at each position.

    Raises:
        CompresscError: CC105 where there is none.
    """
    for response in find_responses(graph):
        if response.learned == "class_scores":
            name = response.value_in(graph)
            type_ = graph.type_of(name)
            if isinstance(type_, TensorType) and len(type_.shape) == 3:
                return name
    raise CompresscError(
        "CC105",
        "a model that writes text puts out scores of each word [b, s, v]",
        got=", ".join(str(graph[name].type) for name in graph.output_names) or "nothing",
        where=graph.name,
    )


def lengths_of(ids: Tensor, valid: Tensor | None) -> Tensor:
    """How many words texts have, i64[b].

    Args:
        ids: i64[b, s].
        valid: which of them are no padding, bool `[b, s]`; None where all are.

    Raises:
        CompresscError: CC301 where padding stands before a text, or in it.
    """
    if valid is None:
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    lengths = valid.sum(1)
    places = torch.arange(ids.shape[1], device=ids.device)
    if not torch.equal(valid, places < lengths[:, None]):
        wanted = "padding stands behind a text"
        raise CompresscError("CC301", wanted, got="some before it, or in it", where=MASK)
    return lengths


def write(
    scores: Scores,
    page: Page,
    text: tuple[Tensor, Tensor | None],
    known: Tensor,
    temperature: float,
) -> Tensor:
    """Continue texts to their ends, each word drawn by the model's scores, or the likeliest.

    The model reads what is known at each step anew. What is drawn follows from the state of the
    global generator alone.

    Args:
        scores: of the model, which looks back only.
        page: where it has its text.
        text: ids i64[b, s], and which of them are no padding, bool `[b, s]`, where some are;
            padding stands behind a text.
        known: how many words of each text stand, i64[b], at least 1; the others are written.
        temperature: of the distribution that is drawn from; 0 for the likeliest word.

    Returns:
        ids i64[b, s].
    """
    ids, ends = text[0].clone(), lengths_of(*text)
    places = torch.arange(ids.shape[1], device=ids.device)
    for t in range(int(known.min()), int(ends.max())):
        end = ids.shape[1] if page.length is not None else t
        mask = None if page.mask is None else (places < t)[:end].expand(len(ids), end)
        rows = scores(page.inputs(ids[:, :end], mask))[:, t - 1]
        writes = (known <= t) & (t < ends)
        ids[:, t] = torch.where(writes, chosen(rows, temperature), ids[:, t])
    return ids


def chosen(rows: Tensor, temperature: float) -> Tensor:
    """A word for each row of scores `[b, v]`, i64[b]; see `write`."""
    if not temperature:
        return rows.argmax(-1)
    chances = (rows.float() / temperature).softmax(-1)
    return torch.multinomial(chances.cpu(), 1).squeeze(1).to(rows.device)  # as the CPU draws it


def require_causal(scores: Scores, page: Page, ids: Tensor, where: str) -> None:
    """See that scores do not depend on the words behind them.

    Args:
        scores: of the model.
        page: where it has its text.
        ids: of some texts, i64[b, s].
        where: the model is from.

    Raises:
        CompresscError: CC105.
    """
    if ids.shape[1] < 2:
        return
    other = ids.clone()
    other[:, -1] = ids[:, 0] if not torch.equal(ids[:, 0], ids[:, -1]) else (ids[:, -1] == 0).long()
    with torch.no_grad():
        one, two = (scores(page.inputs(x, None))[:, :-1] for x in (ids, other))
    off = float((one - two).abs().max())
    if off > _ROUNDING * max(1.0, float(one.abs().max())):
        raise CompresscError(
            "CC105",
            "a model that writes text looks back only",
            got=f"scores that move by {off:.2g} with the word behind them",
            where=where,
        )


def _is_text(type_: object) -> bool:
    integers = (torch.int64, torch.int32)
    return isinstance(type_, TensorType) and len(type_.shape) == 2 and type_.dtype in integers
