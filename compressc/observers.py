"""Who listens to a run: plugins of the group `compressc.observers`, and the log of `--events`.

Everything that draws, logs or plots is a listener. It sees and changes nothing.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from compressc.errors import CompresscError, first_line
from compressc.events import Event, Listener
from compressc.plugins import OBSERVERS, Group
from compressc.spec import Configured, parse, split_top_level

#: Seconds between two lines of progress in a log.
PACE = 1.0


class Observer(Configured, ABC):
    """A listener with a name and options: subclass it, and open what it writes to in `listening`.

    One that fails is told nothing more, and the run goes on: it is said at the end.
    """

    entry_points: ClassVar[Group] = OBSERVERS

    @abstractmethod
    def listening(self) -> AbstractContextManager[Listener]:
        """What is told of events, open inside."""


@dataclass
class Audience:
    """Several listeners as one; see `audience`.

    Attributes:
        listeners: name -> listener, told in order; one that failed is left out.
        failures: name -> what happened.
    """

    listeners: dict[str, Listener] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        """Tell them all."""
        for name, listener in list(self.listeners.items()):
            try:
                listener(event)
            except Exception as error:  # a stranger's observer may raise anything
                del self.listeners[name]
                self.failures[name] = first_line(error)

    def require_all(self) -> None:
        """See that every listener heard all.

        Raises:
            CompresscError: CC700 naming the first that failed.
        """
        for name, what in self.failures.items():
            raise CompresscError("CC700", f"{name} hears of all events", got=what)


@contextmanager
def audience(
    observers: Iterable[Observer], listeners: Mapping[str, Listener] | None = None
) -> Iterator[Audience]:
    """Observers and plain listeners as one listener, open inside.

    Args:
        observers: opened in order, and closed.
        listeners: plain ones by name, told first.

    Raises:
        CompresscError: CC600 where an observer cannot begin.
    """
    heard = Audience(dict(listeners or {}))
    with ExitStack() as opened:
        for observer in observers:
            try:
                listener = opened.enter_context(observer.listening())
            except CompresscError:
                raise
            except Exception as error:  # a stranger's observer may raise anything
                raise CompresscError(
                    "CC600",
                    f"observer '{observer.name}' can begin",
                    got=first_line(error),
                    where=observer.text,
                ) from error
            heard.listeners[f"observer {observer.text}"] = listener
        yield heard


def parse_observers(text: str) -> list[Observer]:
    """Read `tensorboard(folder=runs),other`.

    Raises:
        CompresscError: CC103 for bad syntax, CC107 for an unknown name, CC102 for a bad option.
    """
    return [parse(Observer, item) for item in split_top_level(text)]  # type: ignore[type-abstract]


@contextmanager
def event_log(path: Path) -> Iterator[Listener]:
    """A listener that writes each event as a line of JSON: `time`, `event`, and its facts.

    Lines are added to what is there, each as it happens. Of progress there is a line a second.

    Args:
        path: of a file; made where it is missing.

    Raises:
        CompresscError: CC600 where it cannot be written.
    """
    try:
        file = path.open(
            "ab", buffering=0
        )  # what a full disk refuses is not tried again at the end
    except OSError as error:
        raise CompresscError(
            "CC600", "the log of events can be written", got=first_line(error), where=str(path)
        ) from error
    last = -PACE

    def tell(event: Event) -> None:
        nonlocal last
        if event.kind == "progress":
            now, done = time.monotonic(), event.facts.get("done") == event.facts.get("total")
            if now - last < PACE and not done:
                return
            last = now
        line = {"time": datetime.now(UTC).isoformat(), "event": event.kind, **event.facts}
        text = (json.dumps(line, default=str) + "\n").encode()
        if file.write(text) != len(text):
            raise OSError("the disk is full")

    with file:
        yield tell
