"""New statistics for the batch norms behind a cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx
import torch
from torch import Tensor, nn

from compressc.ir import Graph, lower
from compressc.pipeline import Context
from compressc.tasks import task_of
from compressc.training.batches import Spread, batched
from compressc.training.scaled import scaled_error
from compressc.training.statistics import batch_norms, reestimate_on_trial

#: Samples that go through a model at a time where its error is measured.
ROWS = 32
#: Samples that the statistics are taken from, at most.
SEEN = 1024


def reestimate_behind(graph: Graph, changed: Iterable[str], ctx: Context) -> None:
    """After a cut: new statistics, from the calibration part, for the norms behind changed ops.

    A norm that no changed op leads to sees what it always saw, and keeps what it remembers; so do
    all of them where the new ones take the answers further from the teacher's.

    Args:
        graph: edited in place, with a note; without data only the note.
        changed: ops that were cut or replaced.
        ctx: of the pass that cut.
    """
    dag = graph.dag
    behind = {name for op in changed for name in nx.descendants(dag, op)}
    norms = {op.name: op.layer for op in graph if op.name in behind and batch_norms([op.layer])}
    if not norms:
        return
    first, *more = norms
    where = f"{first} and {len(more)} more" if more else first
    if ctx.data is None:
        text = "batch norms remember what the uncut net showed them: give data for new statistics"
        ctx.note(where, text)
        return
    batches = Spread(ctx.data.calibration, SEEN, ctx.device)

    def all_answers(module: nn.Module) -> Tensor:
        return torch.cat([answers(module, inputs) for inputs in batches])

    wanted = all_answers(_reader(ctx.teacher_to_move(), ctx))
    module = _reader(graph, ctx)
    trial = reestimate_on_trial(
        module,
        batches,
        lambda: float(scaled_error(all_answers(module), wanted)),
        [layer for layer in norms.values() if layer],
    )
    module.to("cpu")
    seen = f"from {len(batches)} samples"
    if trial.worse:
        text = f"statistics kept: with those taken anew {seen} the squared error against the "
        ctx.note(where, f"{text}teacher is {trial.after:.3g} in place of {trial.before:.3g}")
        return
    for name, layer in norms.items():
        if layer is not None:
            graph.set_layer(name, layer)
    left = len(norms) - trial.count
    kept = f"; {left} saw too little and keep theirs" if left else ""
    ctx.note(where, f"statistics taken anew {seen}{kept}")


def _reader(graph: Graph, ctx: Context) -> nn.Module:
    """Puts out what is learned of the task."""
    return lower(graph, also=[task_of(ctx).value_in(graph)]).to(ctx.device).eval()


@torch.no_grad()
def answers(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """The value for all samples, f32[n, ...]."""
    return torch.cat([module(*batch)[1][0].float() for batch in batched(inputs, ROWS)])
