"""What a run tells while it goes on: the events, and their facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Every kind of event, with its facts.
KINDS: Mapping[str, str] = {
    "run": "a compilation begins: model, passes, seed",
    "progress": "work goes on: what, done, total; in training also samples_per_second, "
    "seconds_left, losses, scores",
    "pass": "a pass begins: pass, number, passes",
    "chosen": "a pass settled what was left open, before its work: pass, choices (option, value, "
    "reason)",
    "epoch": "an epoch of training is scored: epoch, epochs, step, losses, scores",
    "pass_done": "a pass is done: pass, number, seconds, cached, parameters, edits",
    "file": "a file is written, proved and measured: format, path, bytes, scores",
    "failure": "something that was asked for did not come about: stage, code, message",
    "done": "the report is written: seconds",
}


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: one of `KINDS`.
        facts: name -> number, text, list or dict, as JSON has them.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


#: Told of each event as it happens.
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener where nobody listens."""


def with_progress(tell: Listener, progress: Callable[[str, int, int], None]) -> Listener:
    """A listener, and a function that is told of progress alone: what, done, total."""

    def both(event: Event) -> None:
        tell(event)
        if event.kind == "progress":
            progress(event.facts["what"], event.facts["done"], event.facts["total"])

    return both
