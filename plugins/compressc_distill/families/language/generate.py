"""`generate`: text that a language model writes, to teach a student by (sequence level)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from compressc.data import open_dataset
from compressc.data.order import mixed
from compressc.distillation import Making, Synthesis
from compressc.durable import replacing
from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.pipeline import Samples
from compressc_distill.families.language.continuing import (
    Page,
    Scores,
    require_causal,
    scores_in,
    write,
)


class Generate(Synthesis):
    """Have a language model continue the beginnings of texts; a student learns what it wrote.

    Sequence-level distillation: to learn the teacher's likeliest texts is to learn its
    distribution over whole texts where most of it lies. The likeliest word is taken each time, as
    beam search of one beam does, or words are drawn at a temperature. Source: Kim and Rush 2016,
    arXiv 1606.07947, section 3.2; their beam of five is not built.

    Legal where the model takes ids and perhaps their attention mask, puts out scores of every word
    at each position, and looks back only. Cost: `words` runs of the teacher for each `batch`.
    """

    name: ClassVar[str] = "generate"

    prompts: str
    """Data whose training part has texts to begin with, as `--data` has it: `text.npz`."""
    prompt: Annotated[int, Field(ge=1)] = 8
    """Words of each text that stand."""
    words: Annotated[int, Field(ge=1)] = 56
    """Words that are written behind them."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    """At which words are drawn; 0 takes the likeliest one each time."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Texts that are written together."""

    def cache_key(self) -> dict[str, Any]:
        """With what the texts hold."""
        return super().cache_key() | {"texts": self._texts().identity}

    def check(self, graph: Graph) -> None:
        """See `Synthesis`."""
        page = Page.of(graph)
        scores_in(graph)
        if page.length is not None and page.length < self.prompt + self.words:
            wanted = f"the model takes texts of prompt + words = {self.prompt + self.words}"
            got = f"{page.length} words at most"
            hint = f"generate(prompt={self.prompt}, words={max(1, page.length - self.prompt)})"
            raise CompresscError("CC204", wanted, got=got, where=graph.name, hint=hint)

    def make(self, graph: Graph, count: int, making: Making) -> tuple[Tensor, ...]:
        """See `Synthesis`; batch by batch, each kept as soon as it is there."""
        self.check(graph)
        texts, page = self._texts(), Page.of(graph)
        self._require_enough(texts, count)
        module = lower(graph, also=[scores_in(graph)]).to(making.device).eval()
        scores: Scores = lambda inputs: module(*inputs)[1][0]  # noqa: E731
        kept = making.store.place("written")
        parts = list(torch.arange(count).chunk(-(-count // self.batch)))
        done: list[Tensor] = []
        for number, part in enumerate(parts):
            file = None if kept is None else kept / f"{number:05d}.npy"
            found = _read(file)
            if found is None:
                begun = self._begun(texts, part % len(texts), page).to(making.device)
                if not number:
                    require_causal(scores, page, begun[:4], graph.name)
                torch.manual_seed(int(mixed(making.seed, number)[0]))
                found = self._written(scores, page, begun).cpu()
                _keep(found, file)
            done.append(found)
            making.progress("generate, texts written", number + 1, len(parts))
        ids = torch.cat(done)
        how = f"drawn at temperature {self.temperature:g}" if self.temperature else "the likeliest"
        making.say(f"{count:,} texts: {self.prompt} words of the data, {self.words} {how}")
        return page.inputs(ids, None)

    def _texts(self) -> Samples:
        return open_dataset(self.prompts).train

    def _require_enough(self, texts: Samples, count: int) -> None:
        """See that no text is written twice.

        Raises:
            CompresscError: CC100.
        """
        if self.temperature or count <= len(texts):
            return
        wanted = "a text to begin with is there for each that is written by its likeliest words"
        got = f"{len(texts):,} for {count:,}"
        hint = f"-n {len(texts)}, or a temperature"
        raise CompresscError("CC100", wanted, got=got, where=self.prompts, hint=hint)

    def _begun(self, texts: Samples, positions: Tensor, page: Page) -> Tensor:
        """The first words, and zeros where others will be, i64[b, s].

        Raises:
            CompresscError: CC300 where the data have no such texts.
        """
        inputs = texts.select(positions).inputs
        ids = inputs[page.ids] if page.ids < len(inputs) else inputs[0]
        if ids.ndim != 2 or ids.is_floating_point() or ids.shape[1] < self.prompt:
            raise CompresscError(
                "CC300",
                f"texts to begin with are ids [n, s] of {self.prompt} words or more",
                got=f"{str(ids.dtype).removeprefix('torch.')} {list(ids.shape)}",
                where=self.prompts,
            )
        length = page.length or self.prompt + self.words
        begun = torch.zeros(len(ids), length, dtype=ids.dtype)
        begun[:, : self.prompt] = ids[:, : self.prompt]
        return begun

    def _written(self, scores: Scores, page: Page, begun: Tensor) -> Tensor:
        """Texts, i64[b, prompt + words]."""
        size = self.prompt + self.words
        known = torch.full((len(begun),), self.prompt, device=begun.device)
        valid = (torch.arange(begun.shape[1], device=begun.device) < size).expand_as(begun)
        with torch.no_grad():
            return write(scores, page, (begun, valid), known, self.temperature)[:, :size]


def _read(file: Path | None) -> Tensor | None:
    """Texts that an earlier process wrote; None where there are none."""
    if file is None or not file.exists():
        return None
    return torch.from_numpy(np.load(file, allow_pickle=False))


def _keep(texts: Tensor, file: Path | None) -> None:
    """A cache that cannot be written costs time, not the texts."""
    if file is not None:
        with suppress(OSError), replacing(file) as aside, aside.open("wb") as opened:
            np.save(opened, texts.numpy())
