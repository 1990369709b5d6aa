"""Versions of the manifest's fields, and how older ones are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressc.measure.latency import verdict_of
from compressc.tasks.metric import ACCURACY, AGREEMENT

#: Grows with every change of the fields. 2: scores by name, and the task that they belong to.
SCHEMA_VERSION = 2


def upgraded(content: Any) -> Any:
    """The content of a manifest of any older schema with the fields of today's.

    What is damaged stays so: the fields are checked afterwards.
    """
    if not isinstance(content, Mapping) or content.get("schema_version") != 1:
        return content
    teacher, scored = content.get("teacher"), dict(content)
    for part in ("passes", "files"):
        if isinstance(content.get(part), list):
            scored[part] = [_with_verdicts(_with_scores(entry)) for entry in content[part]]
    labelled = isinstance(teacher, Mapping) and teacher.get("accuracy") is not None
    if content.get("data") is not None:
        metrics = [ACCURACY, AGREEMENT["class_scores"]][0 if labelled else 1 :]
        scored["task"] = {
            "name": "classification",
            "text": "classification",
            "output": "the first",
            "kind": "class_scores",
            "labels": labelled,
            "reason": "the first output was judged, whatever it was: schema 1 knew no other way",
            "metrics": [metric.model_dump() for metric in metrics],
        }
    return scored | {"schema_version": SCHEMA_VERSION, "teacher": _with_scores(teacher)}


def _with_scores(entry: Any) -> Any:
    """Schema 1 had a field for accuracy and one for agreement, None where there was none."""
    if not isinstance(entry, Mapping):
        return entry
    names = ("accuracy", "agreement")
    scores = {name: entry[name] for name in names if entry.get(name) is not None}
    return {key: value for key, value in entry.items() if key not in names} | {"scores": scores}


def _with_verdicts(entry: Any) -> Any:
    """Schema 1 showed every ratio; what it was worth follows from its range."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("latency"), list):
        return entry
    return {**entry, "latency": [_with_verdict(ratio) for ratio in entry["latency"]]}


def _with_verdict(latency: Any) -> Any:
    try:
        low, high = float(latency["speedup_low"]), float(latency["speedup_high"])
        return latency | {"verdict": verdict_of(low, high)}
    except (TypeError, ValueError, KeyError):
        return latency  # damage, found when the fields are checked
