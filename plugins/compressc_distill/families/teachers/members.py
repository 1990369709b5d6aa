"""Several teachers, read from files, that answer as one: `teachers=` of `distill`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from compressc.analysis import require_alike, symbolize_widths
from compressc.distillation import (
    Answering,
    Keeping,
    Reader,
    Several,
    Teacher,
    Teaching,
    reader_of,
)
from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import Graph, graph_hash
from compressc.pipeline import Context, Samples
from compressc.tasks import task_of
from compressc_distill.composing import task_taught
from compressc_distill.families.teachers import combining, specialists, vocabularies
from compressc_distill.families.teachers.combining import Combine

#: Samples that a teacher is traced with, where its file holds no graph.
_TRACED = 8
#: Bytes of a file that are read at a time.
_BLOCK = 1 << 20


def names_in(text: str) -> tuple[str, ...]:
    """The files of `a.pt,b.pt`, each perhaps with the classes that it knows: `c.pt@3+5`.

    Raises:
        ValueError: where one is named twice, or has no name, or none knows all classes.
    """
    found = tuple(part.strip() for part in text.split(",")) if text else ()
    if not all(found) or len(set(found)) < len(found):
        raise ValueError(f"teachers are files with commas between them, each once: {text!r}")
    known = [specialists.split(name)[1] for name in found]
    if found and all(known):
        raise ValueError(f"one of the teachers knows all classes: a.pt,some.pt@3+5, not {text!r}")
    return found


def digests(names: Sequence[str]) -> dict[str, str]:
    """sha256 of what each file or folder holds: part of the key of what comes of them.

    Raises:
        CompresscError: CC200 where one cannot be read.
    """
    return {name: _digest(Path(specialists.split(name)[0])) for name in names}


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            found.update(f"{file.relative_to(path.parent)} {file.stat().st_size}\n".encode())
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    found.update(block)
    except OSError as error:
        got = error.strerror or type(error).__name__
        wanted = "a teacher is a model file or folder"
        raise CompresscError("CC200", wanted, got=got, where=str(path)) from error
    return found.hexdigest()


@dataclass
class Members:
    """Teachers that were read.

    Attributes:
        names: of their files.
        graphs: of each.
        readers: of their outputs.
        combine: how one answer is made of theirs.
    """

    names: tuple[str, ...]
    graphs: tuple[Graph, ...]
    readers: tuple[Reader, ...]
    combine: Combine

    @classmethod
    def read(cls, names: tuple[str, ...], combine: Combine, ctx: Context) -> Members:
        """Read them all.

        Raises:
            CompresscError: CC2xx for a file that is no such model; CC208 for one that takes or
                gives something else than the run's model; CC105 or CC301 where `combine` has
                nothing to go by.
        """
        task, where = task_of(ctx), f"combine={combine}"
        combining.require_fit(combine, task.judged, task_taught(ctx).labels, where)
        graphs = tuple(_read(name, ctx) for name in names)
        readers = tuple(reader_of(graph, task, [], ctx.device) for graph in graphs)
        return cls(names, graphs, readers, combine)

    def several(
        self,
        ctx: Context,
        part: Samples,
        keeping: Keeping,
        inner: Answering | None,
        *,
        plain: bool,
    ) -> Several:
        """Who answers to the samples of a part; `learned` begins as `mean`.

        Args:
            ctx: of the pass.
            part: what is asked about.
            keeping: how answers are kept.
            inner: the run's own model, where inner values are read.
            plain: it is asked about samples as they are.
        """
        judged = task_of(ctx).judged
        asked: list[Answering] = []
        for graph, reader in zip(self.graphs, self.readers, strict=True):
            kept = replace(keeping, basis=_basis(graph, ctx, keeping))
            one = Teacher(reader, [], part, ctx.device, kept, plain=plain, judged=judged)
            asked.append(vocabularies.fitted(one, graph, ctx))
        known = [specialists.split(name)[1] for name in self.names]
        general = [one for one, classes in zip(asked, known, strict=True) if not classes]
        asked = [
            specialists.Specialist(one, classes, general, judged) if classes else one
            for one, classes in zip(asked, known, strict=True)
        ]
        rule = combining.RULES.get(self.combine, combining.RULES["mean"])
        return Several(asked, judged, rule, inner)

    def settle(self, teaching: Teaching, exam: Teaching, seed: int) -> None:
        """Fit what is learned of the teachers, on the samples that the student is not taught."""
        taught, examined = _of(teaching), _of(exam)
        if self.combine == "learned":
            taught.rule = examined.rule = combining.learned(exam, examined, seed)

    def tell(self, ctx: Context, exam: Teaching) -> None:
        """How each does on the held-out samples, and all together."""
        vocabularies.tell(self.names, self.graphs, ctx)
        examined = _of(exam)
        each = [mean(exam.teacher_by_parts(1, member)) for member in examined.members]
        together = mean(exam.teacher_by_parts(1, examined))
        scores = dict(zip(self.names, each, strict=True))
        text = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        title, count = exam.metric.title, len(exam.samples)
        by = f"{title} on {count} held-out samples" if task_of(ctx).labels else "agreement with all"
        text = f"{len(each)} teachers, combine={self.combine}: {text}; together {together:.4f}"
        fitted = isinstance(examined.rule, combining.Stacked)
        by += ", which its weights were fitted to" if fitted else ""
        ctx.note(task_of(ctx).output, f"{text} ({by})")
        found: dict[str, Any] = {"combine": self.combine, "metric": exam.metric.name}
        if isinstance(examined.rule, combining.Stacked):
            found["weights"] = examined.rule.weights.tolist()
        ctx.record("teachers", found | {"scores": scores, "together": together})


def _of(teaching: Teaching) -> Several:
    """Its teachers."""
    assert isinstance(teaching.teacher, Several)
    return teaching.teacher


def _read(name: str, ctx: Context) -> Graph:
    """A teacher, with the run's inputs and outputs."""
    example = ctx.require_data("distill").calibration.take(_TRACED).inputs
    path, classes = specialists.split(name)
    graph = load_model(path, example=example).graph
    symbolize_widths(graph)
    if classes:
        but: tuple[int, int] | None = specialists.place(graph, classes, ctx, name)
    else:
        but = vocabularies.place(graph, ctx, name)
    whose = "the run's model"
    require_alike(graph, ctx.teacher, "CC208", name, who="a teacher", whose=whose, but=but)
    return graph


def _basis(graph: Graph, ctx: Context, keeping: Keeping) -> Callable[[], Mapping[str, Any]]:
    """What a teacher's answers depend on: as the run's own model's, but for the model."""

    def basis() -> dict[str, Any]:
        values = [response.value_in(graph) for response in task_of(ctx).learned]
        return {**keeping.basis(), "teacher": graph_hash(graph), "values": values}

    return basis
