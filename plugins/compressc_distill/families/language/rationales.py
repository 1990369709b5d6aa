"""Reasons that another model gave, as a second task beside the labels: data for `--data`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from compressc.data import Dataset, Split
from compressc.data.order import order
from compressc.errors import CompresscError
from compressc.tasks import NO_LABEL
from compressc_distill.families.language.alphabets import Alphabet

#: What a text begins with says which task it is.
LABEL, RATIONALE = "[label] ", "[rationale] "
#: Between what is given and what is wanted.
BREAK = "\n"
#: Samples to calibrate with, at most.
_CALIBRATION = 256

#: Ids, and at each the next one, where it is to be learned.
Text = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Example:
    """A line of the file: what is given, what is right, why (as another model said), and where."""

    given: str
    label: str
    rationale: str
    where: str


def step_by_step(  # noqa: PLR0913  (each is the user's to say)
    file: str | Path,
    tokenizer: str | Path,
    length: int,
    *,
    weight: float = 1.0,
    held_out: float = 0.1,
    end: int | None = None,
    mask: bool = False,
    cut: bool = False,
    seed: int = 0,
) -> Dataset:
    """Read lines of JSON with `input`, `label` and `rationale` as texts of two tasks.

    Each line becomes a text `[label] input, label`, and one `[rationale] input, rationale` where it
    has one; what is wanted alone is learned. Reasons are asked for by their own beginning, so that
    a trained model gives its label without them. Validation and test are of other lines, and hold
    the task of labels alone. Source: Hsieh et al. 2023, arXiv 2305.02301, equations 3 and 4: there
    the weight multiplies a mean over the words of each task; here each word of a batch counts the
    same, and the weight is how often reasons come.

    Args:
        file: with a JSON object in each line.
        tokenizer: a `tokenizer.json`.
        length: words of a text; shorter ones are padded at their end.
        weight: of reasons beside labels: 2 has each twice in an epoch, 0.5 every other one.
        held_out: share of the lines for each of validation and test.
        end: id of the word that ends a text, where the model has one.
        mask: whether the model takes an attention mask, too.
        cut: whether texts that are too long lose the beginning of what is given, then the end of
            what is wanted.
        seed: of what is held out.

    Raises:
        CompresscError: CC300 for a file that cannot be read, a line that is no such object, or a
            text that is too long; CC100 for a weight or share that is none; CC106 without the
            package `tokenizers`.
    """
    if weight < 0 or not 0 < held_out < 0.5 or length < 2:
        wanted = "a weight from 0 on, a share held out below 0.5, and texts of 2 words or more"
        got = f"weight={weight:g}, held_out={held_out:g}, length={length}"
        raise CompresscError("CC100", wanted, got=got, where="step_by_step")
    examples = list(_read(Path(file)))
    writer = _Writer(Alphabet(str(tokenizer)), length, end, cut)
    places = order(len(examples), seed, 0).tolist()
    few = max(1, round(held_out * len(examples)))
    if len(examples) <= 2 * few:
        wanted = "there are lines to learn from, to validate and to test"
        raise CompresscError("CC300", wanted, got=f"{len(examples)} lines", where=str(file))
    parts = places[:few], places[few : 2 * few], sorted(places[2 * few :])
    test, validation = (
        writer.split([writer.label(examples[i]) for i in part], mask) for part in parts[:2]
    )
    taught = [examples[i] for i in parts[2]]
    reasons = [writer.rationale(one) for one in taught if one.rationale]
    texts = [*map(writer.label, taught), *_as_often(reasons, weight, seed)]
    train = writer.split(texts, mask)
    some = train.take(min(_CALIBRATION, len(train)))
    return Dataset(Path(file).stem, train, some, test, validation=validation)


def _as_often(texts: Sequence[Text], weight: float, seed: int) -> list[Text]:
    """Each so many times; of a part of a time, so many of them."""
    if not texts:
        return []
    whole = int(weight)
    some = order(len(texts), seed, 1)[: round((weight - whole) * len(texts))].tolist()
    return [*texts] * whole + [texts[i] for i in some]


@dataclass(frozen=True)
class _Writer:
    """Makes ids and what is to be learned of them."""

    alphabet: Alphabet
    length: int
    end: int | None
    cut: bool

    def label(self, example: Example) -> Text:
        """Of the task of labels."""
        return self._text(LABEL, example.label, example)

    def rationale(self, example: Example) -> Text:
        """Of the task of reasons."""
        return self._text(RATIONALE, example.rationale, example)

    def _text(self, task: str, wanted: str, example: Example) -> Text:
        words = self.alphabet.plain
        first, middle = words(task), words(example.given + BREAK)
        last = [*words(wanted), *([] if self.end is None else [self.end])]
        over = len(first) + len(middle) + len(last) - self.length
        if over > 0 and not self.cut:
            raise CompresscError(
                "CC300",
                f"texts have {self.length} words or fewer",
                got=str(over + self.length),
                where=example.where,
                hint="a larger length, or cut=True",
            )
        middle = middle[min(max(over, 0), len(middle) - 1) :]
        ids = [*first, *middle, *last][: self.length]
        begins = len(first) + len(middle)
        labels = [NO_LABEL] * (begins - 1) + ids[begins:] + [NO_LABEL]
        return ids, labels[: len(ids)]

    def split(self, texts: Sequence[Text], mask: bool) -> Split:
        """Texts of one length, padded at their ends."""
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        labels, known = torch.full_like(ids, NO_LABEL), torch.zeros_like(ids)
        for row, (words, wanted) in enumerate(texts):
            ids[row, : len(words)] = torch.tensor(words)
            labels[row, : len(words)] = torch.tensor(wanted)
            known[row, : len(words)] = 1
        return Split((ids, known) if mask else (ids,), labels)


def _read(file: Path) -> Iterator[Example]:
    """The lines, empty ones left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        wanted = "a file of reasons has a JSON object in each line"
        raise CompresscError("CC300", wanted, got=str(error), where=str(file)) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _example(line, f"{file}:{number}")


def _example(line: str, where: str) -> Example:
    wanted = "a line is a JSON object with the texts input and label, and rationale where known"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CompresscError("CC300", wanted, got=str(error), where=where) from error
    texts = found if isinstance(found, dict) else {}
    given, label, why = (texts.get(name) for name in ("input", "label", "rationale"))
    why = "" if why is None else why
    if not (isinstance(given, str) and isinstance(label, str) and isinstance(why, str) and label):
        got = ", ".join(sorted(texts)) or type(found).__name__
        raise CompresscError("CC300", wanted, got=got, where=where)
    return Example(given, label, why, where)
