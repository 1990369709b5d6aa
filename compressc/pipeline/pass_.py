"""What a pass is: a frozen pydantic model whose fields are its options."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import JsonValue

from compressc.analysis.coverage import Verdict
from compressc.errors import CompresscError
from compressc.events import Event, Listener, ignore
from compressc.ir import Graph
from compressc.pipeline.offers import Offer
from compressc.pipeline.samples import TransferSet
from compressc.pipeline.store import Store
from compressc.plugins import PASSES, Group
from compressc.spec import Configured
from compressc.target import Target

if TYPE_CHECKING:  # tasks stands above: the pipeline only hands it on
    from compressc.tasks import SettledTask


@dataclass
class Context:
    """What the pipeline gives a pass.

    Attributes:
        teacher: the graph the run started with. Read it, never edit it.
        data: the transfer set, or None.
        seed: seeds `generator` and the global generators around each pass.
        device: where to train.
        tell: told of what goes on; see `progress`.
        target: where the result will run: back ends, batches, threads, instruction set.
        notes: what `note` collected.
        records: what `record` collected.
        store: where to keep how far a long work is, so that it goes on after a crash.
        task: what is learned and judged; read it with `compressc.tasks.task_of`.
    """

    teacher: Graph
    data: TransferSet | None = None
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tell: Listener = ignore
    notes: list[tuple[str, str]] = field(default_factory=list)
    records: dict[str, JsonValue] = field(default_factory=dict)
    target: Target = field(default_factory=Target)
    store: Store = field(default_factory=Store)
    task: SettledTask | None = None

    def note(self, op: str, text: str) -> None:
        """Report what was done to an op or why it was skipped: nothing is skipped in silence.

        What was said of it before is not said again.
        """
        if (op, text) not in self.notes:
            self.notes.append((op, text))

    def progress(self, what: str, done: int, total: int, **facts: Any) -> None:
        """Tell whoever listens that work goes on.

        Args:
            what: is going on, in words.
            done, total: steps done, and steps in all.
            facts: more about it, as JSON has them; see `compressc.events.KINDS`.
        """
        self.tell(Event("progress", {"what": what, "done": done, "total": total, **facts}))

    def record(self, name: str, value: object) -> None:
        """Put figures on record for programs, as `note` does for people.

        Args:
            name: of the record; another one of that name is replaced.
            value: numbers, texts, lists and mappings; numbers that are not finite become None.
        """
        self.records[name] = _plain(value)

    def example(self) -> tuple[torch.Tensor, ...] | None:
        """Inputs of one calibration sample, `[1, ...]` each; None without data."""
        return None if self.data is None else self.data.calibration.take(1).inputs

    def teacher_to_move(self) -> Graph:
        """The teacher, to be moved to the device: the run's own stays where it is."""
        return self.teacher if self.device.type == "cpu" else self.teacher.copy()

    def generator(self) -> torch.Generator:
        """A fresh generator with the run's seed."""
        return torch.Generator().manual_seed(self.seed)

    def require_data(self, name: str) -> TransferSet:
        """The data set.

        Raises:
            CompresscError: CC105 where the run has none.
        """
        if self.data is None:
            raise CompresscError("CC105", f"pass '{name}' needs data", hint="give --data")
        return self.data


def _plain(value: object) -> JsonValue:
    """As JSON has it, which knows no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(
        f"a record holds numbers, texts, lists and mappings, not {type(value).__name__}"
    )


class Pass(Configured, ABC):
    """One technique. Subclass it, declare options as fields, edit the graph in `run`.

    Class variables:
        name, version: see `Configured`.
        effect: `exact` passes keep every output up to rounding, and the pipeline checks that.
        needs: of `data` and `labels`.
        reads_target: what its result depends on of `ctx.target`; all of it where it does not say.
        floats: dtypes of weights that it can work on; None for all.
        after, before: other passes -> why this one must come after (before) them where both run.
        takes_synthetic: where a run has no data, samples that are made from its model will do.
        prelude: passes that the pipeline puts in front of this one where they are missing.
    """

    entry_points: ClassVar[Group] = PASSES

    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    needs: ClassVar[frozenset[str]] = frozenset()
    reads_target: ClassVar[frozenset[str]] = frozenset(part.name for part in fields(Target))
    floats: ClassVar[frozenset[torch.dtype] | None] = None
    after: ClassVar[Mapping[str, str]] = {}
    before: ClassVar[Mapping[str, str]] = {}
    takes_synthetic: ClassVar[bool] = False
    prelude: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, graph: Graph, ctx: Context) -> None:
        """Edit the private copy `graph` through its methods; read everything else from `ctx`."""

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """What `run` would do with each op of `graph`, and why not: op name -> verdict.

        It must be true: decide by the very functions that `run` decides by. An op that is left out
        counts as not covered and is listed as `does not say`, as all are where a pass has no
        `coverage` of its own.

        Args:
            graph: read it, never edit it (edit a copy).
            ctx: as for `run`; `ctx.teacher` may be the graph itself, `ctx.data` None.
        """
        return {}

    def choices(self, graph: Graph, ctx: Context) -> Sequence[Offer]:
        """What it could do to each part of a graph, for whoever chooses among several passes.

        None where the pass is all or nothing. Options that say how much are not looked at; those
        that say of what, and how, are.

        Args:
            graph: read it, never edit it.
            ctx: as for `run`, with data.
        """
        return ()

    def take(self, graph: Graph, ctx: Context, picked: Sequence[Offer]) -> None:
        """Do what was picked of `choices`, and nothing else.

        Other passes may have changed the graph since: what no longer fits is left out, with a note.

        Args:
            graph: edit it, as in `run`.
            ctx: as for `run`.
            picked: of the offers, one for a part at most.
        """
        raise NotImplementedError(f"pass '{self.name}' offers no choices")

    def wished(self, *, effort: str | None = None, compare_scratch: bool = False) -> Pass:
        """The pass in a run of which this is wished; options that were given stay as they are.

        Args:
            effort: how much time the result is worth: `quick`, `normal` or `thorough`; a pass may
                choose by it what the user left open.
            compare_scratch: whether a pass that learns from a teacher shows what that is worth.
        """
        return self

    @classmethod
    def remarks(cls) -> list[str]:
        """Effect and needs, and the place among other passes, with the reasons."""
        needs = ", ".join(sorted(cls.needs)) or "nothing"
        return [
            f"effect: {cls.effect}; needs: {needs}",
            *(f"comes after {other}: {reason}" for other, reason in cls.after.items()),
            *(f"comes before {other}: {reason}" for other, reason in cls.before.items()),
            *(f"runs {other} first where it is missing" for other in cls.prelude),
        ]

    @property
    def requirements(self) -> frozenset[str]:
        """What this very pass needs: `needs`, and whatever its options ask for beyond it."""
        return self.needs

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """Names of inputs of the data that the run's model does not take, and a student does."""
        return ()

    @property
    def target_parts(self) -> frozenset[str]:
        """What this very pass reads of the target: of `reads_target` what its options ask for."""
        return self.reads_target
