"""What the teacher answers to each sample: computed once where it can be kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from compressc.analysis.attention import AttentionLayer
from compressc.data.source import in_order
from compressc.distillation.answers import (
    AnswerStore,
    Form,
    Layout,
    Locked,
    aside,
    in_memory,
    read_about,
    read_only,
)
from compressc.distillation.attention import Attention, kept_heads, read_attention
from compressc.distillation.largest import Largest, Shortened
from compressc.distillation.points import Pair
from compressc.distillation.vectors import one_each
from compressc.ir import Graph, graph_hash, lower
from compressc.pipeline import Samples, View
from compressc.tasks import Response, SettledTask
from compressc.training import Drawn, drawn

#: Answers up to this size are kept for as long as the pass works, and no longer.
CACHE_BYTES = 1 << 30
#: Samples the teacher is asked about at a time where answers are kept.
ASK = 128
#: Samples that tell whether all are of one length.
LOOKED_AT = 64
_BESIDE = "the teacher runs beside: samples are of several lengths, and their answers are, too"
_FOLDED = "the teacher runs beside: inner values have several rows for each sample"
#: See `Keeping`.
How = Literal["auto", "memory", "disk", "beside"]


@dataclass(frozen=True)
class Answers:
    """What was read off a model for a batch of `b` samples.

    Attributes:
        learned: what is learned `[b, ...]`, the judged one first; where there are `largest`, that
            holds no numbers, see `dense`.
        features: a value for each feature point, `[b, ...]`.
        attention: of each attention layer that is matched.
        vectors: one for each sample, `[b, d]`, where they are read.
        largest: of the judged class scores, where they are kept short.
        agreement: share of several teachers that answer as all together do: as the judged class
            scores, with 1 in the dimension of the classes. No part of what is kept.
        known: of the judged class scores these first ones are answers; the others stand for classes
            that the teacher does not know. None where it knows them all. No part of what is kept.
        spans: of a teacher of another tokenizer, for the word that follows each position: the
            number of its span, i64[b, s, 1], -1 for none and unlike in all texts; the log of the
            span's likelihood, f32[b, s, 1]; how many words it has, i64[b, s, 1]. No part either.
    """

    learned: tuple[Tensor, ...]
    features: tuple[Tensor, ...] = ()
    attention: tuple[Attention, ...] = ()
    largest: Largest | None = None
    vectors: Tensor | None = None
    agreement: Tensor | None = None
    known: int | None = None
    spans: tuple[Tensor, Tensor, Tensor] | None = None

    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, in order."""
        inner = [part for attention in self.attention for part in attention.parts()]
        inner += [] if self.vectors is None else [self.vectors]
        if self.largest is None:
            return (*self.learned, *self.features, *inner)
        return (*self.largest.parts(), *self.learned[1:], *self.features, *inner)

    def like(self, parts: Sequence[Tensor]) -> Answers:
        """Other tensors in the same order."""
        left, largest = iter(parts), self.largest
        judged: tuple[Tensor, ...] = ()
        if largest is not None:
            largest = largest.like(tuple(islice(left, 3)))
            judged = (largest.nothing,)
        whole = self.learned[len(judged) :]
        learned, features = (tuple(islice(left, len(x))) for x in (whole, self.features))
        attention = tuple(x.like(tuple(islice(left, len(x.parts())))) for x in self.attention)
        return Answers((*judged, *learned), features, attention, largest, next(left, None))

    def dense(self) -> tuple[Tensor, ...]:
        """What is learned, to be judged; of what was kept short the best ones, and a level."""
        if self.largest is None:
            return self.learned
        return (self.largest.dense(), *self.learned[1:])


class Reader:
    """A lowered graph together with what is read off it.

    Args:
        graph: the graph; its own layers run, and are moved to the device.
        learned: names of the values that are learned.
        points: names of the values to take for features.
        attention: layers to read.
        vector: name of the value that gives one vector for each sample; none where it is empty.
        valid: of inputs: which positions count.
    """

    def __init__(  # noqa: PLR0913  (a graph, and all that may be read off it)
        self,
        graph: Graph,
        learned: Sequence[str],
        points: Sequence[str],
        device: torch.device,
        attention: Sequence[AttentionLayer] = (),
        vector: str = "",
        valid: Callable[[Sequence[Tensor]], Tensor | None] = lambda inputs: None,
    ) -> None:
        self.learned, self.points, self.attention = tuple(learned), tuple(points), tuple(attention)
        self.vector, self.valid = vector, valid
        self._kept = [kept_heads(graph, layer) for layer in attention]
        inner = (name for layer in attention for name in layer.values)
        names = (*learned, *points, *inner, *([vector] if vector else []))
        self._names = tuple(dict.fromkeys(names))
        self.module = lower(graph, also=self._names).to(device)

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> Answers:
        """Run `module`, which is `self.module` or a wrapper of it, on a batch."""
        return self.read(module(*inputs), inputs)

    def read(self, returned: tuple[Any, Sequence[Any]], inputs: Sequence[Tensor]) -> Answers:
        """What is read of what the module returned for a batch."""
        values: dict[str, Any] = dict(zip(self._names, returned[1], strict=True))
        layers = zip(self.attention, self._kept, strict=True)
        vectors = one_each(values[self.vector], self.valid(inputs)) if self.vector else None
        return Answers(
            tuple(values[name] for name in self.learned),
            tuple(values[name] for name in self.points),
            tuple(
                replace(read_attention(layer, values, len(inputs[0])), kept=kept)
                for layer, kept in layers
            ),
            vectors=vectors,
        )


@dataclass(frozen=True)
class Keeping:
    """How a teacher's answers are kept.

    Attributes:
        how: `memory`, `disk`, `beside` (they are not: the teacher runs beside the student), or
            `auto`: in memory where they are small, in a temporary file up to `CACHE_BYTES`, on
            disk up to `most`, else beside.
        dtype: of what is kept; answers are rounded to it.
        short: the judged class scores are kept short so; None for all of them.
        views: kept of each sample, where augmentation makes them differ; 0 keeps none of those.
        folder: gives the folder for answers of a key; None where there is none.
        most: bytes that answers may take on disk.
        basis: gives what the answers depend on beside the samples, as JSON has it; it is asked for
            where they are kept on disk alone, as the digest of a large teacher takes seconds.
        say: told where answers are kept, and where they cannot be.
        progress: told how many samples of how many the teacher was asked about.
    """

    how: How = "auto"
    dtype: torch.dtype = torch.float32
    short: Shortened | None = None
    views: int = 0
    folder: Callable[[str], Path | None] = lambda key: None
    most: int = 0
    basis: Callable[[], Mapping[str, Any]] = dict
    say: Callable[[str], None] = lambda text: None
    progress: Callable[[int, int], None] = lambda done, total: None


class Answering(Protocol):
    """Who answers to the samples of a batch: a teacher, what one wrote ahead, or several."""

    def answers(self, batch: Drawn) -> Answers:
        """Answers to the samples of a batch."""

    def close(self) -> None:
        """Let go of what is kept."""


class Teacher:
    """The teacher's answers, with the channels that the student has lost left out.

    Kept answers are computed in blocks of fixed samples: whether some were there already, or a run
    was interrupted, changes not a bit of them.

    Args:
        reader: the teacher, reading the teacher's side of `pairs`.
        pairs: what to select of each feature.
        samples: that it will be asked about.
        device: that it runs on.
        keeping: how answers are kept.
        plain: it will be asked about samples as they are, whatever augmentation makes of them.
        judged: the output that is kept short, where it is.

    Raises:
        CompresscError: CC301 where it cannot be kept short.
    """

    def __init__(  # noqa: PLR0913  (what to ask, about what, and what becomes of it)
        self,
        reader: Reader,
        pairs: Sequence[Pair],
        samples: Samples,
        device: torch.device,
        keeping: Keeping | None = None,
        *,
        plain: bool = False,
        judged: Response | None = None,
    ) -> None:
        self.judged = judged
        self.reader, self.pairs, self.samples, self.device = reader, pairs, samples, device
        self.keeping = keeping or Keeping()
        self._views = samples.has_views and not plain
        first = samples.take(1).to(device).inputs
        self._sizes, self._probe = _sizes(first), self.ask(first)
        self._locked: Locked | None = None
        self._filled: set[int] = set()
        self.kept = self._store()

    def ask(self, inputs: Sequence[Tensor]) -> Answers:
        """Run the teacher on inputs `[b, ...]`."""
        with torch.no_grad():
            answers = self.reader(self.reader.module, inputs)
            pairs = zip(self.pairs, answers.features, strict=True)
            answers = replace(answers, features=tuple(p.select(value) for p, value in pairs))
            if self.keeping.short is None or self.judged is None:
                return answers
            first, *others = answers.learned
            short = self.keeping.short.of(first, self.judged)
            return replace(answers, learned=(short.nothing, *others), largest=short)

    def answers(self, batch: Drawn) -> Answers:
        """Answers to the samples of a batch."""
        alike = self.samples.has_views or _sizes(batch.samples.inputs) == self._sizes
        if self.kept is not None and not alike:  # shorter ones than were looked at
            self.close()
            self.keeping.say(_BESIDE)
        if self.kept is None:
            return self.ask(batch.samples.inputs)
        view = batch.view if self._views else None
        number = 0 if view is None else view.number
        self._fill(number, view)
        if self.kept is None:
            return self.ask(batch.samples.inputs)
        parts = self.kept.read(self._rows(number, batch.positions))
        plain = zip(parts, self._probe.parts(), strict=True)
        return self._probe.like([part.to(self.device, like.dtype) for part, like in plain])

    @property
    def replaced(self) -> bool:
        """Whether other answers had to make room for those that are kept on disk."""
        return self._locked is not None and self._locked.replaced

    def fill_all(self, seed: int) -> None:
        """Ask about all samples in all views that are kept."""
        for number in range(self.keeping.views if self._views else 1):
            self._fill(number, View(seed, number) if self._views else None)

    def close(self) -> None:
        """See that what is kept on disk is there, and let other processes have it.

        Other answers are gone.
        """
        if self._locked is not None:
            self._locked.close()
        elif self.kept is not None:
            self.kept.close()
        self._locked, self.kept = None, None

    def _fill(self, number: int, view: View | None) -> None:
        """Ask about all samples in a view whose answers are not there, once for each view."""
        if self.kept is None or number in self._filled:
            return
        total = len(self.samples)
        blocks = [b for b in in_order(total, ASK) if not self.kept.has(self._rows(number, b)).all()]
        requests = ((block, view) for block in blocks)
        for done, part in enumerate(drawn(self.samples, requests, self.device)):
            self.keeping.progress(done * ASK, len(blocks) * ASK)
            rows, values = self._rows(number, part.positions), self.ask(part.samples.inputs).parts()
            shapes = zip(values, self.kept.layout.forms, strict=True)
            if any(tuple(value.shape[1:]) != form.shape for value, form in shapes):
                self.close()
                self.keeping.say(_BESIDE)
                return
            self.kept.write(rows, values)
        self.kept.flush()
        self._filled.add(number)

    def _about_largest(self) -> dict[str, float] | None:
        short, largest = self.keeping.short, self._probe.largest
        if short is None or largest is None:
            return None
        return {**short.as_json(), "classes": largest.classes}

    def _rows(self, number: int, positions: Tensor) -> Tensor:
        return number * len(self.samples) + positions

    def _store(self) -> AnswerStore | None:
        keeping, views = self.keeping, self.keeping.views if self._views else 1
        if keeping.how == "beside" or not views:
            return None
        if self.lengths_differ:
            keeping.say(_BESIDE)
            return None
        if any(x.shape[:1] != (1,) for x in self._probe.parts()):  # of one sample
            keeping.say(_FOLDED)
            return None
        forms = tuple(
            Form(keeping.dtype if x.is_floating_point() else x.dtype, tuple(x.shape[1:]))
            for x in self._probe.parts()
        )
        layout = Layout("", len(self.samples), views, forms, self._about_largest())
        if keeping.how == "memory":
            return in_memory(layout)
        if keeping.how == "auto" and layout.bytes <= CACHE_BYTES:
            return aside(layout)
        return self._on_disk(layout, views)

    @cached_property
    def lengths_differ(self) -> bool:
        """Whether samples are of several lengths, as far as some of them tell."""
        total = len(self.samples)
        some = torch.arange(min(total, LOOKED_AT)) * total // min(total, LOOKED_AT)
        return any(_sizes(self.samples.select(one).inputs) != self._sizes for one in some[:, None])

    def _on_disk(self, layout: Layout, views: int) -> AnswerStore | None:
        """Answers in a folder; where that cannot be, none and a note: it costs time alone."""
        keeping, size = self.keeping, f"{layout.bytes / 1e9:.1f} GB"
        if layout.bytes > keeping.most:
            room = f"{keeping.most / 1e9:.1f} GB may be kept"
            keeping.say(f"the teacher runs beside: its answers take {size}, and {room}")
            return None
        basis = {**keeping.basis(), **({} if layout.largest is None else layout.largest)}
        key = answers_key(basis, self.samples, views, keeping.dtype, self.pairs)
        layout = replace(layout, key=key)
        folder = keeping.folder(layout.key)
        if folder is None:
            keeping.say(f"the teacher runs beside: no cache for {size} of answers")
            return None
        try:
            self._locked = Locked(folder, layout)
        except BlockingIOError:
            keeping.say("the teacher runs beside: another process keeps its answers")
            return None
        except OSError as error:
            keeping.say(f"the teacher runs beside: {size} of answers cannot be kept ({error})")
            return None
        if self._locked.replaced:
            keeping.say("answers of another teacher or other samples were replaced")
        there = layout.rows - self._locked.store.missing
        counted = f"{there:,} of {layout.rows:,} were there"
        keeping.say(f"the teacher's answers are kept on disk: {size}, {counted}")
        return self._locked.store


class GivenAnswers:
    """Answers that were written ahead, for some of the samples that they are of.

    Args:
        store: of the answers.
        positions: of these samples among those, int64 `[n]`.
        device: where they are wanted.
        judged: the output that is kept short, where it is.
    """

    def __init__(
        self, store: AnswerStore, positions: Tensor, device: torch.device, judged: Response
    ) -> None:
        self.store, self.positions, self.device, self.judged = store, positions, device, judged

    def answers(self, batch: Drawn) -> Answers:
        """Answers to the samples of a batch."""
        number = 0 if batch.view is None or self.store.layout.views == 1 else batch.view.number
        rows = number * self.store.layout.samples + self.positions[batch.positions]
        read = (part.to(self.device) for part in self.store.read(rows))
        parts = tuple(x.float() if x.is_floating_point() else x for x in read)
        about, dim = self.store.layout.largest, self.judged.value_dim
        if about is None or dim is None:
            return Answers(parts)
        values, indices, tail, *others = parts
        temperature, classes = about["temperature"], int(about["classes"])
        short = Largest(values, indices, tail, dim, classes, temperature)
        return Answers((short.nothing, *others), largest=short)

    def close(self) -> None:
        """Let go of the files."""
        self.store.close()


def _sizes(inputs: Sequence[Tensor]) -> list[torch.Size]:
    """Of one sample."""
    return [x.shape[1:] for x in inputs]


def open_given(
    folder: Path, graph: Graph, task: SettledTask, samples: Samples, seed: int
) -> AnswerStore:
    """What `compressc teacher` wrote of a teacher and the training part.

    Raises:
        CompresscError: CC303 where it is of something else, or not complete.
    """
    about = read_about(folder) or {}
    try:
        forms = tuple(
            Form(getattr(torch, str(value["dtype"])), tuple(map(int, value["shape"])))
            for value in about["values"]
        )
        views = int(about["views"])
        largest = _about_largest(about["largest"]) if "largest" in about else None
    except (LookupError, TypeError, ValueError, AttributeError):
        forms, views, largest = (), 0, None
    dtype = next((form.dtype for form in forms if form.dtype.is_floating_point), torch.float32)
    basis = given_basis(graph, task, seed if samples.has_views else None)
    key = answers_key({**basis, **(largest or {})}, samples, views, dtype, [])
    return read_only(folder, Layout(key, len(samples), views, forms, largest))


def _about_largest(found: Mapping[str, Any]) -> dict[str, float]:
    count, classes = int(found["count"]), int(found["classes"])
    return {"count": count, "temperature": float(found["temperature"]), "classes": classes}


def given_basis(graph: Graph, task: SettledTask, seed: int | None) -> dict[str, Any]:
    """What answers that are written ahead depend on, beside the samples."""
    values = [response.value_in(graph) for response in task.learned]
    return {"teacher": graph_hash(graph), "values": values, "seed": seed}


def answers_key(
    basis: Mapping[str, Any],
    samples: Samples,
    views: int,
    dtype: torch.dtype,
    pairs: Sequence[Pair],
) -> str:
    """Of all that answers depend on, 64 hex digits."""
    parts = {
        **basis,
        "samples": samples.identity,
        "views": views,
        "dtype": str(dtype),
        "features": [str(pair) + repr(pair.kept) for pair in pairs],
        "block": ASK,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def reader_of(  # noqa: PLR0913  (as the reader's)
    graph: Graph,
    task: SettledTask,
    points: Sequence[str],
    device: torch.device,
    attention: Sequence[AttentionLayer] = (),
    vector: str = "",
) -> Reader:
    """Reads what is learned of a task, features, attention layers, and a vector of each sample."""
    names = [r.value_in(graph) for r in task.learned]
    return Reader(graph, names, points, device, attention, vector, task.valid)
