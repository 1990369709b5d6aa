"""A teacher's answers to all training samples, written ahead: for many runs, or runs elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressc.errors import CompresscError
from compressc.events import Event, Listener, ignore

if TYPE_CHECKING:  # imports below are inside the function, as in `compile`
    from compressc.distillation import Teacher
    from compressc.distillation.answers import Layout
    from compressc.pipeline import Samples
    from compressc.session import Session
    from compressc.tasks import SettledTask


@dataclass(frozen=True)
class Asked:
    """What lies in a folder of answers now.

    Attributes:
        rows: answers in all: views times samples.
        before: how many of them were there already.
        replaced: whether answers of another teacher or other samples had to go.
        bytes: on disk.
        values: the outputs that are answered, each with the dtype and shape of a row.
    """

    rows: int
    before: int
    replaced: bool
    bytes: int
    values: tuple[str, ...]


def ask_teacher(  # noqa: PLR0913  (each is an option of the command line)
    session: Session,
    folder: str | Path,
    *,
    dtype: str = "float32",
    top: int = 0,
    temperature: float = 1.0,
    views: int = 0,
    seed: int = 0,
    device: str = "cpu",
    tell: Listener = ignore,
) -> Asked:
    """Write the answers to the training part into a folder, or go on with those that are there.

    `distill(answers_from=folder)` reads them; `compressc.distillation.answers` says what the folder
    holds.

    Args:
        session: the teacher and its data; see `open_session`.
        folder: made where it is missing.
        dtype: of the answers: `float32`, `float16` or `bfloat16`.
        top: of class scores so many of the largest, and what all others have together; 0 for all.
        temperature: T of the loss that those are for.
        views: of each sample, where the data are augmented.
        seed: of the views; a run that reads them has the same.
        device: where the teacher runs.
        tell: told how far it is.

    Raises:
        CompresscError: CC105 without data; CC301 where there are no more classes than `top`, or
            samples are of several lengths; CC600 where the folder cannot be written.
    """
    import torch

    from compressc.distillation import Keeping, Shortened, Teacher, given_basis, reader_of

    samples, task = _asked_about(session, views)
    graph = session.loaded.graph
    said: list[str] = []
    keeping = Keeping(
        how="disk",
        dtype=getattr(torch, dtype),
        short=Shortened(top, temperature) if top else None,
        views=views,
        folder=lambda key: Path(folder),
        most=1 << 62,
        basis=lambda: given_basis(graph, task, seed if samples.has_views else None),
        say=said.append,
        progress=lambda done, total: tell(_progress(done, total)),
    )
    reader = reader_of(graph, task, [], where := torch.device(device))
    teacher = Teacher(reader, [], samples, where, keeping, judged=task.judged)
    before = _rows_there(teacher, said, folder)
    teacher.fill_all(seed)
    if teacher.kept is None:
        raise _several_lengths()
    layout, replaced = teacher.kept.layout, teacher.replaced
    teacher.close()
    return Asked(layout.rows, before, replaced, layout.bytes, _values(layout, task))


def _rows_there(teacher: Teacher, said: Sequence[str], folder: str | Path) -> int:
    """Answers that the folder has already."""
    if teacher.lengths_differ:
        raise _several_lengths()
    if teacher.kept is None:
        wanted = "the folder of answers can be written"
        raise CompresscError("CC600", wanted, got=said[-1], where=str(folder))
    return teacher.kept.layout.rows - teacher.kept.missing


def _values(layout: Layout, task: SettledTask) -> tuple[str, ...]:
    """`logits float32[10]` of each value."""

    names = [response.name for response in task.learned]
    if layout.largest is not None:
        names[:1] = [f"{names[0]} ({part})" for part in ("largest", "classes", "others")]
    return tuple(f"{name} {form}" for name, form in zip(names, layout.forms, strict=True))


def _several_lengths() -> CompresscError:
    wanted = "answers are written ahead of samples of one length"
    return CompresscError("CC301", wanted, got="several", hint="pad all of them to the longest")


def _progress(done: int, total: int) -> Event:
    return Event("progress", {"what": "asking the teacher", "done": done, "total": total})


def _asked_about(session: Session, views: int) -> tuple[Samples, SettledTask]:
    """The training part, and what is learned of it."""
    if session.data is None or session.task is None:
        raise CompresscError("CC105", "a teacher is asked about data", hint="give --data")
    samples = session.data.train
    if samples.has_views and not views:
        raise CompresscError(
            "CC100", "of augmented samples so many views are kept", got="0", hint="--views 4"
        )
    return samples, session.task
