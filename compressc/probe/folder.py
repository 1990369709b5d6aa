"""A probe: a folder of models and the script that times them on another device."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compressc.analysis import Axis, couple
from compressc.ir import Graph
from compressc.measure import layer_times
from compressc.probe.measuring import RUNTIME
from compressc.probe.plan import Plan, Wanted, plan_of
from compressc.probe.whole import emit_part, read_by

#: What the script is called in the folder.
SCRIPT = "measure.py"


def write_probe(  # noqa: PLR0913  (what is written, and for which device)
    graph: Graph,
    folder: Path,
    *,
    batches: Sequence[int],
    threads: int,
    sizes: Mapping[str, int],
    example: tuple[torch.Tensor, ...],
    name: str = "",
    normalized: bool = False,
) -> int:
    """Write `plan.json`, `measure.py`, models of the layers, and of the whole at parts of it.

    Args:
        graph: with its sizes over width symbols; not changed.
        folder: an empty one.
        batches: batch sizes at which times are to be known.
        threads: that the runtime will be given.
        sizes: of the open dimensions, the batch not counted.
        example: inputs of the graph, `[n, ...]`.
        name: of the model, for people.
        normalized: whether widths are going to be cut that a norm or mean runs over.

    Returns:
        How many models there are.

    Raises:
        CompresscError: CC503 where no file of the whole can be written.
    """
    found = couple(graph)
    movable: set[Axis] = {
        width.axis
        for width in found.widths()
        if width.producers and not width.axis.frozen and (normalized or not width.axis.normalized)
    }
    plans = [plan_of(graph, found, sizes, batch, movable) for batch in batches]
    (folder / "models").mkdir(parents=True)
    wholes: dict[int, str] = {}
    for part, left in plans[0].parts.items():
        path = emit_part(graph, found, left, folder / f"whole{part}", example)
        wholes[part] = str(path.relative_to(folder))
    rows: list[dict[str, Any]] = []
    for plan in plans:
        reads = read_by(graph, sizes, plan.batch)
        for one in plan.rows:
            rows.append(_row(one, plan, folder, wholes, reads, len(rows)))
    content = {
        "schema_version": layer_times.SCHEMA,
        "model": name,
        "structure": plans[0].structure,
        "runtime": RUNTIME,
        "threads": threads,
        "rows": rows,
    }
    (folder / "plan.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(layer_times.__file__, folder / SCRIPT)
    return len(rows)


def _row(  # noqa: PLR0913
    wanted: Wanted,
    plan: Plan,
    folder: Path,
    wholes: Mapping[int, str],
    reads: list[dict[str, Any]],
    number: int,
) -> dict[str, Any]:
    """A row of the plan, its model written."""
    row = {"layer": wanted.signature, "sizes": list(wanted.sizes), "batch": plan.batch}
    if wanted.layer is None:
        return {**row, "file": wholes[wanted.sizes[0]], "inputs": reads, "whole": True}
    model, inputs = wanted.layer.model(wanted.sizes)
    file = f"models/{number:05d}.onnx"
    (folder / file).write_bytes(model)
    return {**row, "file": file, "inputs": inputs, "whole": False}
