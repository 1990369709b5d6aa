"""What a run wrote, taken up again: each file is run, or timed, in its own runtime."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from compressc.backend import Backend, load_backend
from compressc.backend.backend import Runner
from compressc.backend.bench import repeated
from compressc.backend.file_record import FileRecord
from compressc.backend.threads import torch_threads
from compressc.data import Dataset, Source
from compressc.errors import CompresscError, first_line
from compressc.events import Event, Listener, ignore
from compressc.frontend import fit_data
from compressc.ir import Graph, load_bundle, random_inputs
from compressc.measure import (
    Energy,
    Speedup,
    Spread,
    measure_energy,
    measure_latency,
    speedup,
)
from compressc.report import Record
from compressc.tasks.response import named_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rounds of a comparison.
_ROUNDS = 31
#: Random samples, and length of what else is open.
_RANDOM = 8
#: Seconds that a fresh process has for its first answer.
_PATIENCE = 120.0


@dataclass(frozen=True)
class File:
    """One of the files, and the back end that runs it."""

    record: FileRecord
    backend: Backend
    path: Path

    @property
    def format(self) -> str:
        """The back end's name."""
        return self.record.format


@dataclass(frozen=True)
class Written:
    """An output folder of `compressc`.

    Attributes:
        folder: where it is.
        record: its manifest.
    """

    folder: Path
    record: Record

    @classmethod
    def read(cls, folder: str | Path) -> Written:
        """Read the manifest of an output folder.

        Raises:
            CompresscError: CC403 where there is none, or it is damaged; CC100 where it has no file.
        """
        place = Path(folder)
        found = cls(place, Record.read(place / "manifest.json"))
        if not found.record.files:
            raise CompresscError(
                "CC100", "the folder has files to run", got="none", where=str(place)
            )
        return found

    @cached_property
    def graph(self) -> Graph:
        """The graph that the files were written from."""
        return load_bundle(self.folder / "graph")

    def file(self, name: str = "") -> File:
        """The file of that format; the first where none is named.

        Raises:
            CompresscError: CC100 where there is none, CC107 where its back end is not installed.
        """
        by_name = {record.format: record for record in self.record.files}
        record = by_name.get(name) if name else self.record.files[0]
        if record is None:
            wanted = "the format is one that the folder has"
            hint = f"choose of {', '.join(by_name)}"
            raise CompresscError("CC100", wanted, got=name, where=str(self.folder), hint=hint)
        return File(record, load_backend(record.format), self.folder / record.path)

    @property
    def files(self) -> list[File]:
        """All of them."""
        return [self.file(record.format) for record in self.record.files]

    def samples(self, source: Source, name: str) -> Source:
        """The samples as the model takes them.

        Raises:
            CompresscError: CC301, CC204 where they do not fit it.
        """
        return fit_data(self.graph, Dataset(name, source, source, source)).test


def run_file(  # noqa: PLR0913  (how to run; each has a default)
    written: Written,
    file: File,
    samples: Source,
    *,
    batch: int = 32,
    threads: int = 1,
    tell: Listener = ignore,
) -> dict[str, NDArray[np.generic]]:
    """What a file answers to samples, in their order.

    Args:
        written: where the file is from.
        file: of it.
        samples: as the model takes them; see `Written.samples`.
        batch: samples at a time.
        threads: of the runtime.
        tell: told how far it is.

    Returns:
        Output name -> array of all samples; bfloat16 as float32, which numpy has.

    Raises:
        CompresscError: CC504 where the runtime refuses the file, CC601 where it fails at a batch or
            outputs of two batches cannot be joined.
    """
    run = file.backend.load(file.path, threads=threads)
    names = [name for name, _ in named_outputs(written.graph.outputs)]
    parts: list[list[NDArray[np.generic]]] = [[] for _ in names]
    done = 0
    with torch_threads(threads):
        for given in samples.batches(batch):
            for part, output in zip(parts, _outputs(run, given.inputs, file), strict=True):
                part.append(_array(output))
            done += len(given)
            tell(Event("progress", {"what": "samples", "done": done, "total": len(samples)}))
    try:
        return {name: np.concatenate(part) for name, part in zip(names, parts, strict=True)}
    except ValueError as error:
        wanted = "every output has one row for each sample, and the same shape in all batches"
        raise CompresscError("CC601", wanted, got=first_line(error), where=file.format) from error


def _outputs(run: Runner, inputs: tuple[Tensor, ...], file: File) -> tuple[Tensor, ...]:
    try:
        return run(*inputs)
    except Exception as error:  # each runtime has exception types of its own
        wanted = f"{file.backend.runtime} runs {file.path.name}"
        raise CompresscError("CC601", wanted, got=first_line(error), where=file.format) from error


def _array(output: Tensor) -> NDArray[np.generic]:
    found: NDArray[np.generic] = (
        output.float() if output.dtype == torch.bfloat16 else output
    ).numpy()
    return found


@dataclass(frozen=True)
class FirstAnswer:
    """A file in a process of its own, which had imported torch and nothing of the runtime.

    Attributes:
        seconds: from reading the file to the first answer, the runtime's import included.
        bytes: most memory of the process meanwhile, beyond what it had before; None where the
            system does not say.
    """

    seconds: float
    bytes: int | None


@dataclass(frozen=True)
class Raced:
    """One file at one batch size."""

    format: str
    runtime: str
    batch: int
    latency: Spread
    #: Of one batch.
    energy: Energy
    #: Against the first file; None for itself.
    speedup: Speedup | None
    #: Whether it is faster than every other file, beyond what the machine's noise allows to say.
    fastest: bool


def race(
    written: Written, inputs: Sequence[Tensor] | None, batches: Sequence[int], threads: int = 1
) -> list[Raced]:
    """Time all files of a folder side by side, at each batch size.

    Args:
        written: the folder.
        inputs: samples to time with; random ones where None.
        batches: batch sizes.
        threads: of every runtime.

    Raises:
        CompresscError: CC504 where a runtime refuses its file, CC601 where one fails.
    """
    files = written.files
    runners = {file.format: file.backend.load(file.path, threads=threads) for file in files}
    found: list[Raced] = []
    for batch in batches:
        example = example_of(written, inputs, batch)
        for file in files:
            _outputs(runners[file.format], example, file)  # what fails is said with its name
        runs = {name: partial(run, *example) for name, run in runners.items()}
        with torch_threads(threads):
            spreads = measure_latency(runs, rounds=_ROUNDS, threads=threads)
            energies = measure_energy(runs)
        first = spreads[files[0].format]
        best = fastest(spreads)
        for file in files:
            own = spreads[file.format]
            gain = None if own is first else speedup(first, own)
            found.append(
                Raced(
                    format=file.format,
                    runtime=file.backend.runtime,
                    batch=batch,
                    latency=own,
                    energy=energies[file.format],
                    speedup=gain,
                    fastest=file.format == best,
                )
            )
    return found


def fastest(spreads: Mapping[str, Spread]) -> str | None:
    """Who is faster than every other, by a claim that holds against each; None for nobody."""
    for name, own in spreads.items():
        others = [spread for other, spread in spreads.items() if other != name]
        if others and all(speedup(spread, own).verdict == "faster" for spread in others):
            return name
    return None


def example_of(written: Written, inputs: Sequence[Tensor] | None, batch: int) -> tuple[Tensor, ...]:
    """Inputs of a batch size: samples, again and again where they are too few, or random ones."""
    if inputs is None:
        inputs = random_inputs(written.graph, batch=_RANDOM)
    return tuple(repeated(value, batch) for value in inputs)


def first_answer(file: File, example: tuple[Tensor, ...], threads: int = 1) -> FirstAnswer:
    """Load and run a file once in a fresh process.

    Raises:
        CompresscError: CC601 where the process ends without an answer, or does not answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arrays = [_array(value) for value in example]
    arguments = (theirs, file.format, str(file.path), arrays, threads)
    process = context.Process(target=_answer, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        if ours.poll(_PATIENCE):
            seconds, size = ours.recv()
            return FirstAnswer(seconds, size)
        got = f"no answer in {_PATIENCE:.0f} s"
    except EOFError:
        process.join()
        got = f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    wanted = f"{file.backend.runtime} runs {file.path.name} in a fresh process"
    raise CompresscError("CC601", wanted, got=got, where=file.format)


def _answer(
    pipe: Connection, name: str, path: str, arrays: list[NDArray[np.generic]], threads: int
) -> None:
    """In the fresh process."""
    inputs = [torch.from_numpy(array) for array in arrays]
    before = _resident("VmRSS")
    with suppress(OSError):  # the peak begins anew: a new process is born with its parent's
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = time.perf_counter()
    load_backend(name).load(Path(path), threads=threads)(*inputs)
    seconds = time.perf_counter() - start
    after = _resident("VmHWM")
    pipe.send((seconds, None if before is None or after is None else after - before))


def _resident(key: str) -> int | None:
    """Bytes in memory now (`VmRSS`) or at most so far (`VmHWM`), on Linux."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) << 10
    return None
