"""The progress bar: on a terminal, on standard error, and gone when the work is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressc.events import Event, Listener


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Listener]:
    """A listener that draws; silent where standard error is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from compressc.report.console import Console

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("loading", total=None)

        def tell(event: Event) -> None:
            if event.kind == "progress":
                facts = event.facts
                text = _text(facts)
                bar.update(task, description=text, completed=facts["done"], total=facts["total"])
            elif event.kind == "chosen" and not quiet:
                for choice in event.facts["choices"]:
                    console.print(_choice(event.facts["pass"], choice), soft_wrap=True)

        yield tell


def _choice(name: str, choice: Mapping[str, Any]) -> str:
    """`distill: epochs=25 (1,600 steps for a student that lost 62% of its weights)`."""
    return f"{name}: {choice['option']}={choice['value']} ({choice['reason']})"


def _text(facts: Mapping[str, Any]) -> str:
    """What is going on; in training with scores, rate and time left."""
    parts = [str(facts["what"])]
    numbers = {**facts.get("losses", {}), **facts.get("scores", {})}
    parts += [f"{name} {value:.4f}" for name, value in numbers.items()]
    if facts.get("samples_per_second"):
        parts.append(f"{facts['samples_per_second']:,.0f} samples/s")
    if facts.get("seconds_left") is not None:
        parts.append(f"{timedelta(seconds=round(facts['seconds_left']))} left")
    return ", ".join(parts)
