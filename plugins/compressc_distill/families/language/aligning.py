"""A teacher of another tokenizer: how likely it finds spans of text, `tokenizers=` of `distill`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from compressc.analysis import symbolize_widths
from compressc.data.source import in_order
from compressc.distillation import Answering, Answers
from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import Graph, lower
from compressc.pipeline import Context, Samples
from compressc.tasks import task_of
from compressc.tasks.language_model import LanguageModel
from compressc.training import Drawn, drawn
from compressc_distill.families.language.alphabets import Alphabet, Cuts, cuts
from compressc_distill.families.language.continuing import Page, lengths_of, scores_in

#: Samples that the teacher is asked about at a time.
ASK = 64


@dataclass
class Aligned:
    """Who answers as the run's own model, and says what another teacher makes of spans of text.

    Spans lie between neighbouring places at which both tokenizers cut. The first words have no
    likelihood, so the first span begins behind the first such place. What it says of each sample is
    kept in memory; it is asked about blocks of fixed samples, so that an interrupted run gets the
    same bits.

    Attributes:
        inner: the run's own model.
        module: the teacher, which gives its scores.
        page: where the teacher has its text.
        own_page: where the student has it.
        alphabets: tokenizers of the student and of the teacher.
        samples: that it is asked about.
        device: of the teacher.
        valid: of inputs of the student: which words are no padding.
        said: of each sample, once it is known; see `spans`.
    """

    inner: Answering
    module: nn.Module
    page: Page
    own_page: Page
    alphabets: tuple[Alphabet, Alphabet]
    samples: Samples
    device: torch.device
    valid: Callable[[Sequence[Tensor]], Tensor | None] = lambda inputs: None
    said: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def answers(self, batch: Drawn) -> Answers:
        """See `Answering`."""
        if not self.said:
            self._ask()
        length = batch.samples.inputs[self.own_page.ids].shape[1]
        each = [self.said[i] for i in batch.positions.tolist()]
        number, likelihood, words = (
            torch.stack([_fitted(one[part], length) for one in each]).unsqueeze(-1).to(self.device)
            for part in range(3)
        )
        rows = torch.arange(len(each), device=self.device).view(-1, 1, 1) * length
        number = torch.where(number >= 0, number + rows, number)
        return replace(self.inner.answers(batch), spans=(number, likelihood, words))

    def close(self) -> None:
        """See `Answering`."""
        self.inner.close()

    @property
    def share(self) -> float:
        """Of the student's words that are in a span."""
        if not self.said:
            self._ask()
        return float(torch.cat([number >= 0 for number, _, _ in self.said]).float().mean())

    def _ask(self) -> None:
        requests = ((positions, None) for positions in in_order(len(self.samples), ASK))
        for batch in drawn(self.samples, requests, torch.device("cpu")):
            inputs = batch.samples.inputs
            ids = inputs[self.own_page.ids]
            lengths = lengths_of(ids, self.valid(inputs)).tolist()
            self.said += self._of([x[:n].tolist() for x, n in zip(ids, lengths, strict=True)])

    def _of(self, texts: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What there is to say of texts, given as words of the student."""
        ours, theirs = self.alphabets
        read = [ours.text(text) for text in texts]
        other = [theirs.ids(text) for text, _ in read]
        logs = self._logs([ids for ids, _ in other])
        found = []
        for text, (_, ends), (_, other_ends), log in zip(texts, read, other, logs, strict=True):
            found.append(spans(len(text), cuts(ends, other_ends), log))
        return found

    @torch.no_grad()
    def _logs(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Of the likelihood of each word of texts of the teacher's; of the first there is none."""
        most = self.page.length or max(2, *map(len, texts))
        ids = torch.zeros(len(texts), most, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text[:most], dtype=torch.int64)
        lengths = torch.tensor([min(len(text), most) for text in texts])
        mask = torch.arange(most) < lengths[:, None]
        ids, mask = ids.to(self.device), mask.to(self.device)
        scores = self.module(*self.page.inputs(ids, mask))[1][0][:, :-1]
        logs = scores.float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1).cpu()
        return [log[: max(0, n - 1)] for log, n in zip(logs, lengths.tolist(), strict=True)]


def spans(count: int, places: Cuts, logs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a text of `count` words: number, likelihood and size of the span of the word that follows.

    Args:
        count: words of the student.
        places: at which both cut.
        logs: of the likelihood of the teacher's words from the second on.

    Returns:
        `[count]` each, at the position before each word; see `Answers.spans`.
    """
    number = torch.full((count,), -1)
    likelihood, words = torch.zeros(count), torch.zeros(count, dtype=torch.int64)
    for k, (begin, end) in enumerate(pairwise(places)):
        if end.theirs - 1 > len(logs):
            break  # the teacher takes no longer texts
        at = slice(begin.our_next - 1, end.ours - 1)
        number[at], words[at] = k, end.ours - begin.our_next
        likelihood[at] = logs[begin.their_next - 1 : end.theirs - 1].sum()
    return number, likelihood, words


def _fitted(values: Tensor, length: int) -> Tensor:
    """Of a padded text: -1 at padding, which is no span, whatever else is said of it."""
    more = values.new_full((max(0, length - len(values)),), -1)
    return torch.cat([values[:length], more])


@dataclass(frozen=True)
class Foreign:
    """A teacher of another tokenizer, as it was read."""

    name: str
    graph: Graph
    alphabets: tuple[Alphabet, Alphabet]

    @classmethod
    def read(cls, teacher: str, tokenizers: Sequence[str], ctx: Context) -> Foreign:
        """Read teacher and tokenizers.

        Raises:
            CompresscError: CC301 where the run's model continues no texts, or knows fewer words
                than its tokenizer; CC2xx for a file that is no model; CC208 where the teacher knows
                fewer words than its tokenizer; CC106 or CC300 for tokenizers that cannot be read.
        """
        task = task_of(ctx)
        if not isinstance(task.task, LanguageModel):
            wanted = "tokenizers are of a model that continues texts"
            got, hint = f"the task {task.task.name}", "--task language_model, where it is one"
            raise CompresscError("CC301", wanted, got=got, where="distill", hint=hint)
        own, other = (Alphabet(path) for path in tokenizers)
        graph = load_model(teacher).graph
        symbolize_widths(graph)
        Page.of(graph)
        for code, alphabet, of, whose in (
            ("CC301", own, ctx.teacher, "the run's model"),
            ("CC208", other, graph, "the teacher"),
        ):
            size = graph_words(of)
            if alphabet.words > size:
                raise CompresscError(
                    code,
                    f"{whose} knows the {alphabet.words:,} words of its tokenizer",
                    got=f"{size:,}",
                    where=alphabet.path,
                )
        return cls(teacher, graph, (own, other))

    def aligned(self, inner: Answering, part: Samples, ctx: Context, *, told: bool) -> Aligned:
        """Who answers to the samples of a part.

        Args:
            inner: the run's own model.
            part: what is asked about.
            ctx: of the pass.
            told: whether the report says how much is cut alike.

        Raises:
            CompresscError: CC301 where no span of a text is cut alike.
        """
        module = lower(self.graph, also=[scores_in(self.graph)]).to(ctx.device).eval()
        pages, valid = (Page.of(self.graph), Page.of(ctx.teacher)), task_of(ctx).valid
        made = Aligned(inner, module, *pages, self.alphabets, part, ctx.device, valid)
        share = made.share
        if not share:
            wanted = "both tokenizers cut some text at the same places, twice"
            raise CompresscError("CC301", wanted, got="none", where=self.alphabets[1].path)
        text = f"{self.name} has another tokenizer: {share:.0%} of the words of {len(part):,} texts"
        if told:
            ctx.note(task_of(ctx).output, f"{text} are in spans that both cut alike")
        return made


def graph_words(graph: Graph) -> int:
    """How many words a language model scores."""
    size = graph.type_of(scores_in(graph)).shape[-1]
    return size if isinstance(size, int) else graph.widths.get(str(size), 0)
