"""Measuring the layers of a graph on this machine; what was measured once is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from compressc import durable
from compressc.errors import CompresscError
from compressc.measure.layer_times import Refused, Timed, describe_device, time_models
from compressc.measure.table import LatencyTable, Row, read_table
from compressc.pipeline.conditions import conditions
from compressc.probe.plan import Plan, Wanted

#: The runtime, as the ONNX back end calls it.
RUNTIME = "ONNX Runtime"
#: Bytes or path of a model, and what it reads.
Model = tuple[bytes | str, list[dict[str, Any]]]


def here(
    plan: Plan,
    whole: Callable[[int], Model],
    threads: int,
    kept: Callable[[str], Path | None] = lambda key: None,
    done: Callable[[int, int], object] = lambda count, total: None,
) -> tuple[LatencyTable, int]:
    """A table for this machine, measured where it is not known yet.

    Args:
        plan: what is wanted.
        whole: gives path and inputs of the model at a part of its widths, where that is wanted.
        threads: that the runtime may use.
        kept: a folder for a key (64 hex digits) of runtime, version, machine and threads, where
            rows are kept; None keeps nothing.
        done: told how many models are timed, and how many there are.

    Returns:
        The table, and how many rows were measured for it.

    Raises:
        CompresscError: CC503 where the runtime does not run the whole model.
    """
    about = _about(threads)
    folder = kept(hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest())
    known, refused = ({}, {}) if folder is None else _read(folder / "table.json")
    missing = [
        row
        for row in plan.rows
        if (row.signature, row.sizes) not in known and row.signature not in refused
    ]
    if missing:
        timed = _measure(missing, whole, threads, done)
        for row, one in zip(missing, timed, strict=True):
            if isinstance(one, Timed):
                known[row.signature, row.sizes] = Row(
                    layer=row.signature, sizes=row.sizes, batch=plan.batch, **one._asdict()
                )
            elif row.layer is None:
                raise CompresscError("CC503", f"{RUNTIME} runs the model", got=one.reason)
            else:
                refused[row.signature] = one.reason
    table = LatencyTable(
        structure=plan.structure,
        machine=describe_device(),
        runtime=RUNTIME,
        runtime_version=about["version"],
        threads=threads,
        rows=list(known.values()),
        refused=refused,
    )
    if missing and folder is not None:
        _write(folder, table)
    return table, len(missing)


def is_here(table: LatencyTable) -> bool:
    """Whether a table is of this machine and the runtime that is installed on it."""
    import onnxruntime

    ours = {key: value for key, value in describe_device().items() if key != "python"}
    same = all(table.machine.get(key) == value for key, value in ours.items())
    return same and table.runtime_version == onnxruntime.__version__


def _measure(
    missing: Sequence[Wanted],
    whole: Callable[[int], Model],
    threads: int,
    done: Callable[[int, int], object],
) -> list[Timed | Refused]:
    rows: list[dict[str, Any]] = []
    for one in missing:
        source, inputs = whole(one.sizes[0]) if one.layer is None else one.layer.model(one.sizes)
        rows.append({"source": source, "inputs": inputs, "whole": one.layer is None})
    return time_models(rows, lambda row: row["source"], threads, done)


def _about(threads: int) -> dict[str, str]:
    """All that a time depends on beside the layer."""
    import onnxruntime
    import torch

    here = conditions(torch.device("cpu"))
    parts = {name: here[name] for name in ("system", "processor", "instruction_set")}
    version = onnxruntime.__version__
    return {**parts, "runtime": RUNTIME, "version": version, "threads": str(threads)}


def _read(path: Path) -> tuple[dict[tuple[str, tuple[int, ...]], Row], dict[str, str]]:
    """What is kept; nothing where it cannot be read: it is measured again then."""
    try:
        table = read_table(path)
    except CompresscError:
        return {}, {}
    return {(row.layer, row.sizes): row for row in table.rows}, table.refused


def _write(folder: Path, table: LatencyTable) -> None:
    """As what cannot be kept of a pass: it costs time, not the run."""
    with suppress(OSError):
        durable.make_folder(folder)
        durable.write_text(folder / "table.json", table.model_dump_json(indent=1) + "\n")
