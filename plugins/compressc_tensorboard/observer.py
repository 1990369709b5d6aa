"""The `tensorboard` observer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from compressc.errors import CompresscError
from compressc.events import Event, Listener
from compressc.observers import Observer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Observer):
    """Write losses and scores of training, and what each pass left, for TensorBoard.

    Curves are `<pass>/losses/<name>` and `<pass>/scores/<name>` over the steps of a pass, and
    `parameters` over the passes. Needs the extra: `pip install 'compressc[tensorboard]'`.
    """

    name: ClassVar[str] = "tensorboard"

    folder: str = "runs"
    """Where to write; `tensorboard --logdir` reads it."""

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Open a writer, and close it in the end.

        Raises:
            CompresscError: CC106 where TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise CompresscError(
                "CC106",
                "observer 'tensorboard' finds TensorBoard installed",
                got=str(error),
                hint="pip install 'compressc[tensorboard]'",
            ) from error
        with SummaryWriter(self.folder) as writer:
            yield _Curves(writer).tell


class _Curves:
    """Which pass is at work, and the writer."""

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer: Any = writer
        self.label = ""

    def tell(self, event: Event) -> None:
        facts = event.facts
        if event.kind == "pass":
            self.label = f"{facts['number']:02d}-{str(facts['pass']).partition('(')[0]}"
        elif event.kind == "epoch":
            for group in ("losses", "scores"):
                for name, value in facts.get(group, {}).items():
                    self.writer.add_scalar(f"{self.label}/{group}/{name}", value, facts["step"])
        elif event.kind == "pass_done":
            self.writer.add_scalar("parameters", facts["parameters"], facts["number"])
