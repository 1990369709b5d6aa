"""The whole flow on one screen: load, run the passes, measure, emit, prove, report."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressc.events import Event, Listener, ignore, with_progress

if TYPE_CHECKING:  # imports below are inside the functions: `import compressc` must stay light
    from torch import nn

    from compressc.data import Dataset
    from compressc.frontend import Origin
    from compressc.gate import Gate
    from compressc.ir import Graph
    from compressc.measure import Judge
    from compressc.pipeline import Pass, PassResult, Samples
    from compressc.report import Record
    from compressc.target import Target
    from compressc.tasks import SettledTask, Task

#: Samples that a file is proved on, where there is no data.
_RANDOM_SAMPLES = 8


@dataclass
class Compiled:
    """What a compilation made.

    Attributes:
        graph: the compressed graph.
        teacher: the graph it came from.
        passes: what each pass did, in order, each with the graph that it made.
        report: every measurement; `save` adds the files to it.
        target: what it was made for.
        task: what was learned and judged; None without data.
        judge: scores graphs and files beside the teacher, which is run once for all of them.
        origin: the module that the teacher was traced from, where there was one.
        views: whether the student reads other inputs than the teacher: files take what is read.
    """

    graph: Graph
    teacher: Graph
    passes: list[PassResult]
    report: Record
    target: Target
    data: Dataset | None = None
    task: SettledTask | None = None
    judge: Judge | None = field(default=None, repr=False)
    origin: Origin | None = field(default=None, repr=False)
    views: bool = False
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def module(self) -> nn.Module:
        """The compressed model as a torch module in eval mode; call it like the teacher.

        Factored layers run by `compressc.kernels.lowrank_linear` in inference. Its weights are its
        own: training it changes nothing that is saved.
        """
        from compressc.ir import fuse_factored, lower

        # a copy: torch may move the bytes of the graph's weights from under a numpy view of them
        return copy.deepcopy(fuse_factored(lower(self.graph)))

    def apply_to(self, module: nn.Module) -> nn.Module:
        """A copy of your own module with the compressed layers, in its class and with its methods.

        Widths follow, factors stand as a small `nn.Sequential` in the place of a layer, blocks that
        the student does without leave their list, and folded norms are identities. Numbers that the
        modules keep (heads, channels) are changed with them. The copy is run on calibration data,
        or on the example inputs, at two batch sizes, and computes what the graph does.

        Args:
            module: what was compiled; of the same code and configuration. It is not changed.

        Returns:
            The copy, each part in the mode that it has in `module`.

        Raises:
            CompresscError: CC507 with the place where the module's code cannot hold the graph.
        """
        from compressc.transplant import apply_to

        data = None if self.data is None else self.data.calibration
        return apply_to(self.graph, self.teacher, module, self.origin, data)

    def save(
        self,
        folder: str | Path,
        *,
        formats: Sequence[str] | None = None,
        batches: Sequence[int] | None = None,
        tell: Listener = ignore,
    ) -> Record:
        """Write the model in every format, prove each file, and write the report.

        Args:
            folder: made where missing; its files are replaced together, or not at all.
            formats: names of installed back ends; the target's where None.
            batches: batch sizes to measure latency at, none for no measurement; the target's
                where None.
            tell: told of the work, of each file and of each failure; see `compressc.events`.

        Returns:
            The report, which is also kept as `self.report`.

        Raises:
            CompresscError: CC600 where the folder cannot be written, CC107 for an unknown format,
                CC503 where not one file could be written.
        """
        from compressc.backend import Teacher, bench
        from compressc.collecting import standing_objects_skipped
        from compressc.ir import save_bundle
        from compressc.report import staged, write_html

        target = replace(
            self.target,
            backends=self.target.backends if formats is None else tuple(formats),
            batches=self.target.batches if batches is None else tuple(batches),
        )
        with (
            standing_objects_skipped(),
            staged(Path(folder)) as scratch,
            Teacher(
                self.teacher, self._samples(), target, self.judge, self.origin, self.views
            ) as teacher,
        ):
            save_bundle(self.graph, scratch / "graph")
            self._write_snapshots(scratch / "passes")
            files, failures = bench(self.graph, target, teacher, scratch, tell)
            seconds = time.perf_counter() - self._started
            self.report = self.report.model_copy(
                update={"files": files, "failures": failures, "wall_seconds": seconds}
            )
            self.report.write(scratch / "manifest.json")
            write_html(self.report, scratch / "report.html")
        tell(Event("done", {"seconds": self.report.wall_seconds}))
        return self.report

    def _samples(self) -> Samples:
        """What files are proved and measured on: data that no pass saw, the example, or random."""
        from compressc.data import Split
        from compressc.frontend import cast_inputs
        from compressc.ir.running import random_inputs

        if self.data is not None:
            return self.data.test
        types = [self.graph.type_of(op.name) for op in self.graph.inputs]
        if self.origin is not None and not all(type_.dtype.is_floating_point for type_ in types):
            # random ids are all 0, and of equal tokens attention makes the same with any heads
            example = cast_inputs(self.graph, self.origin.call.tensors)
            if all(tensor.dim() and len(tensor) == len(example[0]) for tensor in example):
                return Split(example)
        return Split(random_inputs(self.graph, batch=_RANDOM_SAMPLES))

    def _write_snapshots(self, folder: Path) -> None:
        from compressc.pipeline import write_snapshots

        write_snapshots(self.passes, folder)
        (folder / "00-teacher.txt").write_text(str(self.teacher), encoding="utf-8")


def compile(  # noqa: PLR0913  (the public entry point: each option is one the user may give)
    model: Any,
    passes: str | Sequence[Pass | str],
    *,
    data: Any = None,
    workers: int = 0,
    augment: str = "",
    inputs: Sequence[str] = (),
    effort: Literal["quick", "normal", "thorough"] | None = None,
    compare_scratch: bool = False,
    seed: int = 0,
    trust_pickle: bool = False,
    factory: str | None = None,
    state_key: str | None = None,
    ignore_extra: bool = False,
    dtype: str = "float32",
    task: str | Task | None = None,
    judged: str | None = None,
    target: Target | None = None,
    gate: Gate | None = None,
    cache: str | Path | None = "default",
    checkpoint_every: float = 60.0,
    any_order: bool = False,
    tell: Listener = ignore,
    progress: Callable[[str, int, int], None] | None = None,
) -> Compiled:
    """Compress a model.

    Args:
        model: an nn.Module, an exported program, a Graph, or the path of a file or folder.
        passes: `"prune(ratio=0.5),distill,quant"`, or a list of passes.
        data: a data set's name, a file or folder of arrays, `file.py:function`; or arrays, a torch
            or Hugging Face data set, or parts of these: see `compressc.data.objects`.
        workers: processes that make samples ahead, where a user's code makes them.
        augment: what is made of training samples, anew in each epoch: `"flip,shift(pixels=2)"`, or
            `"file.py:function"`, which runs that code.
        inputs: example inputs in words, `"x: f32[b,3,32,32]"`, where model and data have none.
        effort: how much time the result is worth: passes choose by it what `passes` leaves open,
            and tell why.
        compare_scratch: train each student without its teacher, too, and say what that is worth.
        seed: of every random choice; the same seed gives the same bytes.
        trust_pickle: allow a pickled module, which runs code from the file.
        factory: `pkg.mod:function` that builds the module of a state dict.
        state_key: where in a checkpoint the weights are, where several fit the module.
        ignore_extra: leave out tensors of a checkpoint that the module does not have.
        dtype: `float32` converts a model in other floats, `keep` leaves it.
        task: what the model is for: `"segmentation"`, `"file.py:Class"`, which runs that code, or a
            task; inferred from outputs and labels where None.
        judged: key or name of the output that is learned and judged, where the model has several.
        target: where the result will run: formats, batch sizes, threads, device, instruction set.
        gate: what the run will be held against; refused here where it could never be judged.
        cache: folder for the results of passes; None keeps none.
        checkpoint_every: seconds of a training that a crash may cost; kept in the cache.
        any_order: let an order be that the passes speak against, to measure what it is worth.
        tell: told of each pass and of the work inside; see `compressc.events`.
        progress: told (what is going on, steps done, steps in all) alone.

    Raises:
        CompresscError: for everything a caller can mend; see `compressc.errors.CODES`.
    """
    from compressc.backend import load_backend
    from compressc.ir import lower
    from compressc.measure import Judge, require_memory
    from compressc.pipeline import (
        PassCache,
        Pipeline,
        default_cache_folder,
        parse_passes,
        plan,
    )
    from compressc.report import Recorder
    from compressc.session import open_session, read_model
    from compressc.synthesizing import instead_of_data
    from compressc.target import Target

    started = time.perf_counter()
    wanted, target = parse_passes(passes), target or Target()
    wanted = [one.wished(effort=effort, compare_scratch=compare_scratch) for one in wanted]
    tell = tell if progress is None else with_progress(tell, progress)
    tell(Event("run", {"model": _named(model), "passes": [p.text for p in wanted], "seed": seed}))
    for name in target.backends:
        load_backend(name)  # an unknown format is refused before any work

    made = None
    if data is None:
        made = instead_of_data(
            wanted,
            lambda: read_model(
                model,
                None,
                inputs,
                trust_pickle=trust_pickle,
                factory=factory,
                state_key=state_key,
                ignore_extra=ignore_extra,
                dtype=dtype,
            ),
            seed=seed,
            device=target.device,
            cache=cache,
            checkpoint_every=checkpoint_every,
            tell=tell,
        )

    def check(dataset: Dataset | None) -> None:
        if gate is not None and dataset is None:
            gate.require_score(None)
        plan(wanted, dataset, any_order=any_order)

    others = tuple(dict.fromkeys(name for one in wanted for name in one.other_inputs))
    session = open_session(
        model,
        data=data if made is None else made[0],
        workers=workers,
        augment=augment,
        inputs=inputs,
        trust_pickle=trust_pickle,
        factory=factory,
        state_key=state_key,
        ignore_extra=ignore_extra,
        dtype=dtype,
        task=task,
        judged=judged,
        others=others,
        check=check,
    )
    loaded, dataset, settled = session.loaded, session.data, session.task
    if made is not None:
        loaded = replace(loaded, notes=(*loaded.notes, made[1]))
    for name in target.backends:
        load_backend(name).of(loaded.graph, loaded.origin)  # what it can write nothing of, too
    require_memory(loaded.graph, target.batches)
    if gate is not None:
        gate.require_score(settled, dataset is not None and dataset.test.has_labels)
    folder = default_cache_folder() if cache == "default" else cache and Path(cache)
    pipeline = Pipeline(
        wanted,
        dataset,
        seed,
        PassCache(folder or None),
        tell,
        checkpoint_every,
        task=settled,
        target=target,
        any_order=any_order,
    )
    judge = None
    if dataset is not None and settled is not None:
        judge = Judge(settled, lower(loaded.graph), dataset.test)
    recorder = Recorder(loaded, dataset, judge)
    results = pipeline.run(loaded.graph, recorder.add)
    report = recorder.record(seed, _command(passes))
    last = results[-1].graph
    return Compiled(
        last,
        loaded.graph,
        results,
        report,
        target,
        dataset,
        settled,
        judge,
        loaded.origin,
        bool(others),
        _started=started,
    )


def _named(model: Any) -> str:
    return str(model) if isinstance(model, str | Path) else type(model).__name__


def _command(passes: Any) -> str:
    """The command line, or the call where compressc is used as a library."""
    name = Path(sys.argv[0]).name
    if name == "compressc":
        return " ".join([name, *sys.argv[1:]])
    return f"compressc.compile(model, {passes!r})"
