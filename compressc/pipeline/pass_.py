"""What a pass is: a frozen pydantic model whose fields are its options."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict

from compressc.analysis.coverage import Verdict
from compressc.errors import CompresscError
from compressc.ir import Graph


class Samples(Protocol):
    """One part of a data set; `compressc.data.Split` is one."""

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The model's inputs, [n, ...] each."""

    @property
    def labels(self) -> torch.Tensor | None:
        """Class labels i64[n], where there are any."""

    def __len__(self) -> int: ...

    def batches(
        self, size: int, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[Samples]:
        """Batches in order, or shuffled where a generator is given."""


class TransferSet(Protocol):
    """The data a run has; `compressc.data.Dataset` is one."""

    @property
    def train(self) -> Samples:
        """What passes may fit weights to."""

    @property
    def calibration(self) -> Samples:
        """What passes may observe activations on."""

    @property
    def test(self) -> Samples:
        """What no pass may look at: the report is measured on it."""

    @property
    def fingerprint(self) -> str:
        """Hash of all of it."""


#: (what is going on, steps done, steps in all)
Progress = Callable[[str, int, int], None]


@dataclass
class Context:
    """What the pipeline gives a pass.

    Attributes:
        teacher: the graph the run started with. Read it, never edit it.
        data: the transfer set, or None.
        seed: seeds `generator` and the global generators around each pass.
        device: where to train.
        progress: call it as work goes on.
        notes: what `note` collected.
    """

    teacher: Graph
    data: TransferSet | None = None
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = lambda what, done, total: None
    notes: list[tuple[str, str]] = field(default_factory=list)

    def note(self, op: str, text: str) -> None:
        """Report what was done to an op or why it was skipped: nothing is skipped in silence."""
        self.notes.append((op, text))

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


class Pass(BaseModel, ABC):
    """One technique. Subclass it, declare options as fields, edit the graph in `run`.

    Class variables:
        name: how the pass is called in a pass list.
        version: part of the cache key; raise it when the result changes.
        effect: `exact` passes keep every output up to rounding, and the pipeline checks that.
        needs: of `data` and `labels`.
        after, before: other passes -> why this one must come after (before) them where both run.
        prelude: passes that the pipeline puts in front of this one where they are missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str]
    version: ClassVar[int] = 1
    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    needs: ClassVar[frozenset[str]] = frozenset()
    after: ClassVar[Mapping[str, str]] = {}
    before: ClassVar[Mapping[str, str]] = {}
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

    @property
    def requirements(self) -> frozenset[str]:
        """What this very pass needs: `needs`, and whatever its options ask for beyond it."""
        return self.needs

    @property
    def text(self) -> str:
        """The pass as it is written in a pass list: `prune(ratio=0.5)`."""
        fields = type(self).model_fields
        given = {fields[key].alias or key: getattr(self, key) for key in self.model_fields_set}
        options = ", ".join(f"{key}={_literal(given[key])}" for key in sorted(given))
        return f"{self.name}({options})" if options else self.name

    def cache_key(self) -> dict[str, Any]:
        """Class, version and every option: what the result depends on beside graph and data."""
        cls = type(self)
        return {
            "pass": f"{cls.__module__}.{cls.__qualname__}",
            "version": self.version,
            "options": self.model_dump(mode="json"),
        }


def _literal(value: Any) -> str:
    """A bare word stays one; any other text is quoted, so that it reads back as text."""
    bare = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", value)
    if bare and value.lower() not in ("true", "false", "none"):
        return str(value)
    return json.dumps(value) if isinstance(value, str) else repr(value)
