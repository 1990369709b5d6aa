"""The options of commands that train: where, and what a crash may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of each command that trains with checkpoints (see `cli.spreading`)."""

    device: Annotated[str, typer.Option(help="Where it trains: cpu, cuda.")] = "cpu"
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Keep no results and no checkpoints.")
    ] = False
    checkpoint_every: Annotated[
        float, typer.Option(min=0.0, help="Seconds of a training that a crash may cost.")
    ] = 60.0

    def keywords(self) -> dict[str, Any]:
        """As arguments of `open_study`, `synthesize` and `condense`."""
        return {
            "device": self.device,
            "cache": None if self.no_cache else "default",
            "checkpoint_every": self.checkpoint_every,
        }
