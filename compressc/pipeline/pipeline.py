"""Running a list of passes: run, verify, check, record, store; then the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import JsonValue

from compressc import processes
from compressc.analysis import total_cost
from compressc.collecting import give_back, standing_objects_skipped
from compressc.errors import CompresscError
from compressc.events import Event, Listener, ignore
from compressc.interruption import finished_passes_are_cached
from compressc.ir import Graph, check_finite, graph_hash, random_inputs, verify
from compressc.ir.weights_file import set_aside
from compressc.pipeline.cache import PassCache
from compressc.pipeline.conditions import conditions
from compressc.pipeline.exactness import check_exact
from compressc.pipeline.ordering import Step, plan, require_floats
from compressc.pipeline.pass_ import Context, Pass
from compressc.pipeline.samples import TransferSet
from compressc.pipeline.seeding import seeded
from compressc.pipeline.store import SECONDS, Store
from compressc.pipeline.stored import Facts
from compressc.target import Target

if TYPE_CHECKING:
    from compressc.tasks import SettledTask


@dataclass
class PassResult:
    """What one pass did.

    Attributes:
        step: the pass, and what it was inserted for.
        graph: the graph after it; its weights are set aside in a file once the next pass begins.
        seconds: how long it ran (when it ran first, where `cached`).
        cached: whether the result came from the cache.
        edits: editing method -> how often it was called.
        notes: (op, text) that the pass reported, and what there is to say of the cache.
        records: figures that the pass put on record, by name.
        made: versions and machine that it was made with, earlier or elsewhere where `cached`.
    """

    step: Step
    graph: Graph
    seconds: float
    cached: bool
    edits: dict[str, int] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    records: dict[str, JsonValue] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)


@dataclass
class Pipeline:
    """A checked list of passes, ready to run.

    Attributes:
        passes: in order; preludes are put in by `plan`.
        data: the transfer set, or None.
        seed: of every random choice.
        cache: where results are kept.
        tell: told of each pass and of the work inside.
        checkpoint_every: seconds of work that may be lost in a crash inside a long pass.
        task: what is learned and judged, or None.
        target: where the result will run; its device is where passes train.
        any_order: whether an order may be that the passes speak against; see `plan`.
    """

    passes: Sequence[Pass]
    data: TransferSet | None = None
    seed: int = 0
    cache: PassCache = field(default_factory=lambda: PassCache(None))
    tell: Listener = ignore
    checkpoint_every: float = SECONDS
    task: SettledTask | None = None
    target: Target = field(default_factory=Target)
    any_order: bool = False

    @standing_objects_skipped()
    def run(
        self, teacher: Graph, done: Callable[[PassResult], None] = lambda result: None
    ) -> list[PassResult]:
        """Run all passes on a copy of the teacher.

        Args:
            teacher: left as it is.
            done: given each result as soon as it is there.

        Returns:
            A result for each pass; the weights of all but the last are set aside in a file.

        Raises:
            CompresscError: before any work, for a list that cannot work; CC500 or CC501 naming the
                pass that broke the graph; CC601 where a library failed inside a pass.
        """
        steps = plan(self.passes, self.data, any_order=self.any_order)
        verify(teacher)
        check_finite(teacher)
        require_floats([step.pass_ for step in steps], teacher)
        finished_passes_are_cached(self.cache.folder is not None)
        results: list[PassResult] = []
        graph, origin = teacher, graph_hash(teacher)
        for number, step in enumerate(steps, 1):
            of = {"pass": step.pass_.text, "number": number}
            self.tell(Event("pass", {**of, "passes": len(steps)}))
            result = self._step(step, graph, teacher, origin)
            self.tell(Event("pass_done", {**of, **_facts(result)}))
            done(result)
            results.append(result)
            graph = result.graph
            give_back()  # graphs, and modules that ran, are cycles that hold weights
        return results

    def _step(self, step: Step, before: Graph, teacher: Graph, origin: str) -> PassResult:
        context = Context(
            teacher,
            self.data,
            self.seed,
            torch.device(self.target.device),
            tell=self.tell,
            task=self.task,
            target=self.target,
        )
        code, made = step.pass_.code(), conditions(context.device)
        said: list[tuple[str, str]] = []  # of this run's cache: no part of the result
        cache = self.cache
        unknown = code.unknown or (self.task.task.code().unknown if self.task else "")
        if unknown and cache.folder is not None:
            said.append(("", f"not kept in the cache: {unknown}"))
            cache = PassCache(None)
        parts = self._parts(step.pass_, before, origin, context, made)
        key = PassCache.key(parts)
        say = lambda text: said.append(("", text))  # noqa: E731
        stored = cache.load(key, say)
        if not processes.of_main(stored is not None):  # all work, or none
            stored = None
        elif stored is None:
            wanted = "every process reads the same cache"
            raise CompresscError("CC601", wanted, where=str(cache.folder))
        if stored is not None:
            if before is not teacher:
                set_aside(before)
            return _result(step, stored.graph, stored.facts, True, said)
        about = {"text": step.pass_.text, "parts": parts}
        context.store = Store(
            cache.unfinished(key),
            about,
            seconds=self.checkpoint_every,
            most=cache.limit // 2,  # more, and it would push out all results
            say=say,
        )
        with closing(context.store):
            graph, seconds = self._work(step.pass_, before, context)
            facts = Facts(
                text=step.pass_.text,
                seconds=seconds,
                edits=dict(graph.edits),
                notes=context.notes,
                records=context.records,
                made=made | dict(code.libraries),
            )
            if cache.store(key, graph, facts):
                context.store.clear()
            else:
                finished_passes_are_cached(False)
        return _result(step, graph, facts, False, said)

    def _work(self, pass_: Pass, before: Graph, context: Context) -> tuple[Graph, float]:
        """What the pass makes of the graph, checked, and the seconds it took."""
        graph = before.copy()
        if before is not context.teacher:
            set_aside(before)  # a model for each pass would fill the memory
        start = time.perf_counter()
        self._guarded_run(pass_, graph, context)
        seconds = time.perf_counter() - start
        give_back()
        self._check(pass_, before, graph)
        return graph, seconds

    def _parts(
        self, pass_: Pass, before: Graph, origin: str, context: Context, made: Mapping[str, str]
    ) -> dict[str, Any]:
        """Everything that the result depends on."""
        target = {name: getattr(context.target, name) for name in sorted(pass_.target_parts)}
        return {
            "graph": graph_hash(before),
            "teacher": origin,
            "data": self.data.fingerprint if self.data is not None else None,
            "task": self.task.cache_key() if self.task is not None else None,
            "target": target,
            "seed": self.seed,
            "conditions": made,
            "pass": pass_.cache_key(),
        }

    def _guarded_run(self, pass_: Pass, graph: Graph, context: Context) -> None:
        """Seed everything, keep the caller's generators, and say which pass failed."""
        try:
            with seeded(self.seed), torch.enable_grad():
                pass_.run(graph, context)
        except CompresscError:
            raise
        except (Exception, SystemExit) as error:  # a stranger's pass may raise anything
            raise CompresscError(
                "CC601",
                f"pass '{pass_.name}' failed",
                got=f"{type(error).__name__}: {error}",
                where=pass_.text,
                hint="--traceback shows where",
            ) from error

    def _check(self, pass_: Pass, before: Graph, graph: Graph) -> None:
        try:
            verify(graph, like=before)
            check_finite(graph)
        except CompresscError as error:
            got = f"{error.code}: {error.wanted}" + (f", {error.got}" if error.got else "")
            raise _broken(pass_, got, error.where) from error
        except Exception as error:  # a graph may be broken in ways the verifier does not expect
            raise _broken(pass_, f"{type(error).__name__}: {error}") from error
        if pass_.effect == "exact":
            check_exact(pass_, before, graph, self._probe(before))

    def _probe(self, graph: Graph) -> tuple[torch.Tensor, ...]:
        """Real inputs where there are any, else random ones."""
        if self.data is not None:
            return next(iter(self.data.calibration.batches(16))).inputs
        return random_inputs(graph, self.seed)


def _result(
    step: Step, graph: Graph, facts: Facts, cached: bool, said: Sequence[tuple[str, str]]
) -> PassResult:
    notes = [*facts.notes, *said]
    return PassResult(
        step, graph, facts.seconds, cached, facts.edits, notes, facts.records, facts.made
    )


def _broken(pass_: Pass, got: str, where: str = "") -> CompresscError:
    wanted = f"pass '{pass_.name}' must leave a well-formed graph"
    return CompresscError("CC500", wanted, got=got, where=where)


def _facts(result: PassResult) -> dict[str, Any]:
    """What an event says of a pass that is done."""
    return {
        "seconds": result.seconds,
        "cached": result.cached,
        "parameters": total_cost(result.graph).parameters,
        "edits": dict(result.edits),
    }


def write_snapshots(results: Sequence[PassResult], folder: Path) -> None:
    """Write the graph text after each pass as `NN-name.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(results, 1):
        path = folder / f"{number:02d}-{result.step.pass_.name}.txt"
        path.write_text(str(result.graph), encoding="utf-8")
