"""`check_coverage`: does a pass do what its coverage says, op by op and tensor by tensor?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from compressc.analysis.cost import open_sizes
from compressc.analysis.coverage import Coverage, Verdict, parameters_of
from compressc.analysis.matrices import holds_matrix
from compressc.ir import Graph, Op, TensorType, TupleType, layer_tensors
from compressc.pipeline import Pass, Pipeline, TransferSet, cover


def check_coverage(pass_: Pass, graph: Graph, data: TransferSet | None = None) -> Coverage:
    """Ask a pass what it can do with a graph, run it (its prelude too), and compare.

    An op that the pass is said to change must have changed: its kind, operands, readers, type or a
    parameter. One that it is said to leave keeps kind, type and parameters. Every parameter that a
    verdict names is another afterwards; every other one keeps shape and dtype, or has gone as it is
    to a new op of the same lineage. And nothing is skipped in silence: an op with parameters that
    the pass cannot change has a note in the run. For one that holds no matrix, a norm say, it is
    enough that a note on another op has its reason.

    Args:
        pass_: the pass with its options.
        graph: what to run it on; see `export_graph`.
        data: the transfer set, where the pass needs one.

    Returns:
        What the pass said.

    Raises:
        CompresscError: where the pipeline finds fault with the run.
        AssertionError: listing what was said and what happened, where they differ.
    """
    (coverage,) = cover([pass_], graph, data)
    results = Pipeline([pass_], data).run(graph)
    after = results[-1].graph
    wrong = [
        f"%{op.name}: {fault}, but coverage says '{coverage.verdicts[op.name].text}'"
        for op in graph
        for fault in _faults(coverage.verdicts[op.name], op, graph, after)
    ]
    silent = silently_left(graph, coverage, [note for result in results for note in result.notes])
    wrong += [
        f"%{op}: left alone without a note, but coverage says '{text}'"
        for op, text in silent.items()
    ]
    assert not wrong, "\n".join(wrong)
    return coverage


def silently_left(
    graph: Graph, coverage: Coverage, notes: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """Ops with parameters that a pass cannot change and says nothing of -> why it cannot."""
    noted = {name for names, _ in notes for name in names.split(", ")}
    told = "\n".join(text for _, text in notes)
    left = {op: coverage.verdicts[op.name] for op in graph if parameters_of(op)}
    return {
        op.name: verdict.text
        for op, verdict in left.items()
        if verdict.outcome == "cannot"
        and op.name not in noted
        and (holds_matrix(graph, op) or any(r not in told for r in verdict.text.split("; ")))
    }


def _faults(verdict: Verdict, op: Op, graph: Graph, after: Graph) -> Iterator[str]:
    """What happened to an op against what was said of it; nothing was, where it is unknown."""
    if verdict.outcome == "unknown":
        return
    gone = op.name not in after
    tensors = {} if gone or after[op.name].layer is None else _tensors(after[op.name])
    others = [other for other in after if other.name not in graph and other.lineage == op.lineage]
    moved = [tensor for other in others for tensor in _tensors(other).values()]
    for name, before in parameters_of(op):
        kept = [tensor for tensor in moved if _is(tensor, before)]
        now = kept[0] if kept else tensors.get(name)
        kept_form = now is not None and (now.shape, now.dtype) == (before.shape, before.dtype)
        same = now is not None and _is(now, before)
        if name in verdict.tensors and same:
            yield f"its {name} is as it was"
        if name not in verdict.tensors and not (same if verdict.outcome != "does" else kept_form):
            yield f"its {name} has changed"
    if verdict.outcome == "does" and not (verdict.tensors or _moved(op, graph, after)):
        yield "nothing of it has changed"
    if verdict.outcome != "does" and (gone or _form(op, graph) != _form(after[op.name], after)):
        yield "it is another"


def _is(now: torch.Tensor, before: torch.Tensor) -> bool:
    return now.shape == before.shape and now.dtype == before.dtype and torch.equal(now, before)


def _tensors(op: Op) -> dict[str, torch.Tensor]:
    return {} if op.layer is None else dict(layer_tensors(op.layer))


def _form(op: Op, graph: Graph) -> tuple[object, ...]:
    """Kind and type of an op, widths filled in."""
    size_of = open_sizes(graph)
    types = op.type.items if isinstance(op.type, TupleType) else (op.type,)
    shapes = [
        (t.dtype, tuple(map(size_of, t.shape))) if isinstance(t, TensorType) else t for t in types
    ]
    return op.kind, *shapes


def _moved(op: Op, graph: Graph, after: Graph) -> bool:
    """Whether an op is gone, is another, or reads or is read by others."""
    if op.name not in after or _form(op, graph) != _form(after[op.name], after):
        return True
    readers = ({user.name for user in g.users(op.name)} for g in (graph, after))
    return op.inputs != after[op.name].inputs or len(set(map(frozenset, readers))) > 1
