"""Nouns of WordNet, their classes and why, for families.py: labels beside a lexicon's reasons.

A gloss without its word is given, wanted is the class of the noun (of ten), and the reason is the
chain of the three classes above it, nearest first: "young sheep" is an `animal`, since it is a
`sheep bovid ruminant`. The reasons are those of a lexicon, not of a large model. Each label is one
word of the tokenizer, so that the task's accuracy is the share of exact labels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import recovery
import torch
from compressc_distill.families.language.rationales import step_by_step
from torch.nn import functional as F

from compressc.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "teachers"))
import signs

#: Words of the tokenizer, of a text, and of the chain of reasons.
WORDS, LENGTH, CHAIN = 2000, 32, 3
#: Lines of the file, the share of them for each of validation and test, and others of the teacher.
LINES, HELD_OUT, OTHERS = 4000, 0.375, 8000
#: Of the validation, to choose epochs by.
CHOOSE = 300
PLACE = Path("build/families")
#: Files of lexicographers with a noun's name for each.
NAMES = """
tops act animal artifact attribute body cognition communication event feeling food group location
motive object person phenomenon plant possession process quantity relation shape state substance
time
"""
CLASSES = dict(enumerate(NAMES.split(), 3))


class Noun(NamedTuple):
    """A line of WordNet."""

    file: int
    word: str
    above: str
    gloss: str


class Small(signs.LanguageModel):
    """A student with new weights: a quarter of a million parameters."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(WORDS, 48, 2, LENGTH)


def labels() -> Dataset:
    """Labels alone."""
    return _data(0.0)


def half() -> Dataset:
    """Labels, and the reasons of every other noun."""
    return _data(0.5)


def whole() -> Dataset:
    """Labels and reasons."""
    return _data(1.0)


def _data(weight: float) -> Dataset:
    file, words = PLACE / "nouns.jsonl", PLACE / "nouns.json"
    made = step_by_step(file, words, LENGTH, weight=weight, held_out=HELD_OUT, cut=True)
    assert made.validation is not None
    chosen = made.validation.take(CHOOSE)
    return Dataset(made.name, made.train, made.calibration, made.test, validation=chosen)


def prepare(cache: Path) -> None:
    """The file of nouns, its tokenizer, and a teacher that saw the labels of others."""
    if (PLACE / "nouns.pt2").exists():
        return
    recovery.fetch(cache)
    lines = _lines(cache / "package" / "dict" / "data.noun")
    _tokenizer(lines, PLACE / "nouns.json")
    texts = [json.dumps(line) for line in lines]
    (PLACE / "nouns.jsonl").write_text("\n".join(texts[:LINES]), encoding="utf-8")
    others = PLACE / "others.jsonl"
    others.write_text("\n".join(texts[LINES : LINES + OTHERS]), encoding="utf-8")
    model = _teacher(others, PLACE / "nouns.json")
    signs.save(model, torch.zeros(4, LENGTH, dtype=torch.int64), PLACE / "nouns.pt2")


def _lines(file: Path) -> list[dict[str, str]]:
    """Nouns of the ten largest classes, shuffled: gloss, class, and what is above them."""
    nouns = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        head, _, gloss = line.partition("|")
        if not line.startswith(" "):
            offset, number, _, count, *rest = head.split()
            pointers = rest[2 * int(count, 16) :]
            above = next((pointers[i + 1] for i, p in enumerate(pointers) if p in ("@", "@i")), "")
            word = rest[0].replace("_", " ").lower()
            nouns[offset] = Noun(int(number), word, above, gloss.partition(";")[0].strip())
    counts = np.bincount([noun.file for noun in nouns.values()])
    largest = set(np.argsort(-counts, kind="stable")[:10].tolist())
    chosen = [noun for noun in nouns.values() if noun.file in largest and noun.gloss]
    order = np.random.RandomState(0).permutation(len(chosen))
    return [_line(chosen[i], nouns) for i in order]


def _line(noun: Noun, nouns: dict[str, Noun]) -> dict[str, str]:
    chain, one = [], noun
    while one.above in nouns and len(chain) < CHAIN:
        one = nouns[one.above]
        chain.append(one.word)
    return {"input": noun.gloss, "label": CLASSES[noun.file], "rationale": " ".join(chain)}


def _tokenizer(lines: list[dict[str, str]], file: Path) -> None:
    """Whole words, the most frequent ones; line ends are words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.WordLevel(unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\n|[^\w\s]"), "removed", invert=True)
    always = ["?", "\n", *CLASSES.values(), "label", "rationale", "[", "]"]
    trainer = trainers.WordLevelTrainer(
        vocab_size=WORDS, special_tokens=always, show_progress=False
    )
    made.train_from_iterator([f"{one['input']} {one['rationale']}" for one in lines], trainer)
    made.save(str(file))


def _teacher(file: Path, words: Path) -> torch.nn.Module:
    """By the labels of its own nouns."""
    split = step_by_step(file, words, LENGTH, weight=0, held_out=0.05, cut=True).train
    data = split.take(len(split))
    (ids,), wanted = data.inputs, data.labels
    torch.manual_seed(0)
    model = signs.LanguageModel(WORDS, 96, 2, LENGTH)
    rate, steps = 2e-3, 4 * -(-len(ids) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps + 1)
    for _ in range(4):
        for rows in torch.randperm(len(ids)).split(64):
            optimizer.zero_grad()
            scores = model(ids[rows]).flatten(0, 1)
            F.cross_entropy(scores, wanted[rows].flatten(), ignore_index=-100).backward()
            optimizer.step()
            schedule.step()
    return model.eval()
