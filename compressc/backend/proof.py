"""Does an emitted file compute what the graph computes? Its own runtime tells."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import sympy
import torch
from torch.utils import _pytree as pytree

from compressc.analysis.integers import full_range_layers, is_integer, rounds_values
from compressc.backend.backend import Backend, Runner
from compressc.collecting import give_back
from compressc.editing import computes_on_integers, read_floats
from compressc.errors import CompresscError
from compressc.ir import Graph, evaluate, lower
from compressc.measure import Fidelity, fidelity
from compressc.pipeline import Samples
from compressc.target import Target, instruction_set
from compressc.tasks import SettledTask, agreement, turned_by

#: Graphs whose values are floats, however their weights are stored. A runtime adds the same
#: products in another order and with other vector widths: each sum is off by some 1e-7 of its
#: size, and measured models by 1e-7 to 1e-6. A wrong layout, a lost bias or a half-precision
#: fallback is off by 1e-3 or more.
FLOAT_RELATIVE_ERROR = 1e-4

#: Graphs that round values. Where a sum lies on the border of two integers, the last bit of it
#: decides which one it becomes, so one value in some hundred differs by one step of 255. Measured
#: with half-range weights and without VNNI: a digits CNN 0.0015, a tagger 0.0000, a transformer of
#: four blocks 0.003, twelve residual convolutions 0.004, 0.011 at worst elsewhere. The same models
#: with full-range weights saturate there: 0.047 to 0.195. This is between the two; the cosine of
#: what it lets pass is 0.9995 or better, so that there is no bound for it.
QUANTIZED_RELATIVE_ERROR = 0.03
#: The share of samples whose largest output may be another one (those between two classes), and at
#: least one sample. Measured: none for trained models on their own data, 0.008 at most elsewhere.
#: Only where the teacher knows the labels: else the answers may all be close to a tie. Where more
#: of them are, as many as such errors turn by chance: of next letters, for one. Off by 0.013 in
#: dynamic int8, textgenrnn turns 0.045 of 512, as near to the float model's as the graph is.
QUANTIZED_DISAGREEMENT = 0.03

#: Roundings that lie on a border come out otherwise when one number moves by its last bit, more so
#: where ranges are found at run time and every border moves; a network of many such layers may end
#: elsewhere. With weights off by 1e-6 MiniLM differs from itself by 0.053 in int8, by 0.085 with
#: ranges found at run time; its files are off by 0.042 and 0.07. So a file beyond the bound is
#: held against that distance of the graph from itself, and may be this many times as far. Not
#: where sums overflow: that is no rounding.
UNSTEADY_FACTOR = 1.5
#: Or by this share of what rounding its values does to the graph. A text detector (DBNet of 1.2 M,
#: whose scores are steep) is 0.19 off by rounding; with weights off by 1e-6 it differs from itself
#: by 0.051, its ONNX file from the graph by 0.077.
ROUNDING_SHARE = 0.5
#: How far runtimes are off in one product, relative: see `FLOAT_RELATIVE_ERROR`.
_SUM_ERROR = 1e-6

#: Graphs in 16 bits. A runtime may keep more digits between operations than the type has, or add
#: in another order; so many steps of the type at 1 (0.00098 in f16, 0.0078 in bf16). Measured:
#: see `docs/howto-quant.md`.
STEPS_OF_TYPE = 8

#: Batches that the file runs at; none is the exported one, and the last batch is smaller again.
_BATCHES = (1, 3, 128)
#: More samples would prove nothing more.
_MOST_SAMPLES = 512
#: Samples of the example that an exporter traces with.
_EXAMPLE = 8


def emit_proved(
    backend: Backend, graph: Graph, folder: Path, split: Samples, task: SettledTask | None = None
) -> tuple[Path, Fidelity]:
    """Write a file and prove it; a file that fails is removed again.

    Args:
        backend: what writes it.
        graph: what to write.
        folder: where to.
        split: real inputs.
        task: what is judged, where anything is.

    Raises:
        CompresscError: CC503 where it cannot be written, CC504 where it does not compute the graph.
    """
    path = backend.emit(graph, folder, split.take(_EXAMPLE).inputs)
    give_back()  # exporters leave cycles that hold the weights, and the runtime takes its own
    try:
        return path, prove(backend, graph, path, split, task)
    except CompresscError:
        for file in backend.files(path):
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()  # `openvino/` was made for its file
        raise


def prove(
    backend: Backend, graph: Graph, path: Path, split: Samples, task: SettledTask | None = None
) -> Fidelity:
    """Run an emitted file on real inputs, at several batch sizes, and compare it with the graph.

    Where other dimensions than the batch are open, shorter samples are run as well.

    Returns:
        The distance between file and graph: of the output that is furthest off; and the share of
        equal answers of the judged output.

    Raises:
        CompresscError: CC504 where the runtime refuses the file or an input, or the numbers differ
            by more than rounding (`FLOAT_RELATIVE_ERROR`; `QUANTIZED_RELATIVE_ERROR`,
            `QUANTIZED_DISAGREEMENT`; `UNSTEADY_FACTOR`, `ROUNDING_SHARE`; `STEPS_OF_TYPE`).
    """
    run, module = backend.load(path), lower(graph)
    found = []
    for batch in _batches(split):
        got = _run(run, batch, backend, path)
        with torch.no_grad():
            want = pytree.tree_leaves(module(*batch))
        found.append(_check_shapes(got, want, path))
    outputs = [_joined(pairs) for pairs in zip(*found, strict=True)]
    others = _at_another_length(run, module, shorter(graph, split), backend, path)
    worst = max((fidelity(*pair) for pair in (*outputs, *others)), key=_badness)
    worst = worst.model_copy(update={"samples": len(outputs[0][0])})
    rounds, turned = rounds_values(graph), None
    if task is not None and task.answers:
        judged = outputs[task.index]
        worst = worst.model_copy(update={"agreement": agreement(task.judged, *judged)})
        if rounds and task.labels:
            turned = _turned(task, judged[1], fidelity(*judged))
    most = _largest_error(graph)
    if rounds and worst.relative_rms_error > most and not _overflowing(backend, graph):
        unsteady = UNSTEADY_FACTOR * _distance(_shaken(graph), graph, split)
        most = max(most, unsteady, ROUNDING_SHARE * _distance(graph, _unrounded(graph), split))
    fault = _fault(worst, most, turned)
    if fault:
        raise _wrong(backend, graph, path, *fault)
    return worst


def _badness(found: Fidelity) -> tuple[float, float]:
    return found.relative_rms_error, -found.cosine


def _batches(split: Samples) -> Iterator[tuple[torch.Tensor, ...]]:
    """The first sample, the next few, then the rest in large batches."""
    inputs = split.take(_MOST_SAMPLES).inputs
    count, start = len(inputs[0]), 0
    sizes = iter(_BATCHES)
    size = next(sizes)
    while start < count:
        stop = min(start + size, count)
        yield tuple(x[start:stop].contiguous() for x in inputs)
        start, size = stop, next(sizes, size)


def shorter(graph: Graph, split: Samples) -> tuple[torch.Tensor, ...] | None:
    """A few samples cut to half of each open dimension but the batch; None where all are closed."""
    inputs = split.take(_BATCHES[1]).inputs
    types = [graph.type_of(op.name).shape for op in graph.inputs]
    sizes = {
        str(size): length
        for shape, tensor in zip(types, inputs, strict=True)
        for size, length in zip(shape, tensor.shape, strict=True)
        if isinstance(size, sympy.Symbol)
    }
    batch = {str(shape[0]) for shape in types if shape}
    cut = {n: graph.within_limits(n, -(-k // 2)) for n, k in sizes.items() if n not in batch}
    if all(size >= sizes[name] for name, size in cut.items()):
        return None
    env = graph.size_env(**sizes | cut)
    wanted = [[int(evaluate(size, env)) for size in shape] for shape in types]
    return tuple(
        tensor[tuple(slice(size) for size in shape)].contiguous()
        for tensor, shape in zip(inputs, wanted, strict=True)
    )


@torch.no_grad()
def _at_another_length(
    run: Runner,
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...] | None,
    backend: Backend,
    path: Path,
) -> list[list[torch.Tensor]]:
    """Outputs of file and graph; none where the graph itself has no numbers for such inputs."""
    if inputs is None:
        return []
    try:
        want = pytree.tree_leaves(module(*inputs))
    except (RuntimeError, IndexError):  # an input that names a place behind the new end
        return []
    if not all(bool(torch.isfinite(tensor).all()) for tensor in want):  # padding alone, say
        return []
    shapes = ", ".join(str(list(tensor.shape[1:])) for tensor in inputs)
    pairs = _check_shapes(_run(run, inputs, backend, path, f" of samples {shapes}"), want, path)
    return [_joined((pair,)) for pair in pairs]


def _run(
    run: Runner, batch: tuple[torch.Tensor, ...], backend: Backend, path: Path, of: str = ""
) -> tuple[torch.Tensor, ...]:
    try:
        return run(*batch)
    except Exception as error:  # each runtime has exception types of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompresscError(
            "CC504",
            f"{backend.runtime} must run the file at batch {len(batch[0])}{of}",
            got=lines[0][:200],
            where=str(path),
        ) from error


def _check_shapes(
    got: tuple[torch.Tensor, ...], want: list[torch.Tensor], path: Path
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    shapes = [[list(tensor.shape) for tensor in side] for side in (got, want)]
    if shapes[0] != shapes[1]:
        raise CompresscError(
            "CC504", f"the outputs have the shapes {shapes[1]}", got=str(shapes[0]), where=str(path)
        )
    return list(zip(got, want, strict=True))


def _joined(pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]) -> list[torch.Tensor]:
    """One output of file and graph over all batches; those without a batch are one sample each."""
    return [
        torch.cat([side[None] if side.dim() == 0 else side for side in sides])
        for sides in zip(*pairs, strict=True)
    ]


def _largest_error(graph: Graph) -> float:
    """Relative to the root mean square of an output."""
    if rounds_values(graph):
        return QUANTIZED_RELATIVE_ERROR
    held = {tensor.dtype for tensor in graph.tensors().values()}
    steps = [torch.finfo(dtype).eps for dtype in held & {torch.float16, torch.bfloat16}]
    return max((STEPS_OF_TYPE * step for step in steps), default=FLOAT_RELATIVE_ERROR)


@torch.no_grad()
def _shaken(graph: Graph) -> Graph:
    """The graph with float weights off by as much as sums are."""
    twin, draw = graph.copy(), torch.Generator().manual_seed(0)
    for tensor in twin.tensors().values():
        if tensor.is_floating_point():
            tensor.mul_(1 + _SUM_ERROR * torch.randint(-1, 2, tensor.shape, generator=draw))
    return twin


def _unrounded(graph: Graph) -> Graph:
    """The graph with values that are not rounded; its weights are."""
    twin = graph.copy()
    ends = [name for name in twin.output_names if is_integer(twin, name)]
    read_floats(twin, [*(op.name for op in graph if computes_on_integers(graph, op)), *ends])
    return twin


@torch.no_grad()
def _distance(graph: Graph, other: Graph, split: Samples) -> float:
    """How far outputs of a graph are from those of another one; of the output furthest off."""
    runs = lower(graph), lower(other)
    found = []
    for batch in _batches(split):
        pair = [pytree.tree_leaves(run(*batch)) for run in runs]
        found.append(list(zip(*pair, strict=True)))
    outputs = [_joined(pairs) for pairs in zip(*found, strict=True)]
    return max(fidelity(*pair).relative_rms_error for pair in outputs)


def _turned(task: SettledTask, want: torch.Tensor, found: Fidelity) -> float:
    """Share of the answers that errors as large as those that were found turn by chance."""
    size = float(want[want.isfinite()].double().square().mean().sqrt())
    return turned_by(task.judged, want, found.relative_rms_error * size)


def _fault(found: Fidelity, most: float, turned: float | None) -> tuple[str, str] | None:
    """What was wanted and what was got, where a file computes something else.

    Args:
        found: how far it is off.
        most: relative error that it may have.
        turned: share of answers that chance turns; None where answers do not count.
    """
    fine = found.relative_rms_error <= most
    bound, got = f"relative error at most {most:g}", f"{found.relative_rms_error:.2g}"
    if turned is not None and found.agreement is not None:
        agreement = 1 - max(QUANTIZED_DISAGREEMENT, 1 / found.samples, turned)
        fine = fine and found.agreement >= agreement - 1e-9
        bound, got = f"{bound}, agreement {agreement:.3f}", f"{got}, {found.agreement:.3f}"
    return None if fine else (bound, got)


def _wrong(backend: Backend, graph: Graph, path: Path, bound: str, got: str) -> CompresscError:
    """CC504; where this processor's int8 sums overflow, that is the cause."""
    wide = _overflowing(backend, graph)
    if wide:
        got = (
            f"{got}: this processor ({instruction_set()}) has no VNNI, so sums of u8 * s8 saturate "
            f"in '{wide[0]}' and {len(wide) - 1} other layers"
        )
    return CompresscError(
        "CC504",
        f"the {backend.name} file must compute what the graph does in {backend.runtime} ({bound})",
        got=got,
        where=str(path),
        hint="quant(range=half)" if wide else "use another format, and report the model",
    )


def _overflowing(backend: Backend, graph: Graph) -> list[str]:
    """Layers whose int8 sums overflow on this processor."""
    return full_range_layers(graph) if backend.overflows and Target().saturates_int8 else []
