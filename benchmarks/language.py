"""Language models of Python's own sources, for families.py: teachers, student and data."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from compressc.data import Dataset, Split
from compressc.session import read_model
from compressc.synthesizing import synthesize, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "teachers"))
import signs

#: Pieces of text that a student has, and signs that stand of each where the teacher wrote the rest.
PIECES, PROMPT = 500, 16


class Small(signs.LanguageModel):
    """A student of a tenth of the teacher's size."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(signs.WORDS, 32, 2)


def language() -> Dataset:
    """Pieces of the standard library, judged on other modules of it."""
    return _judged_on_text("signs", signs.pieces(signs.WORDS, PIECES, test=False))


def written() -> Dataset:
    """As many that the teacher wrote, judged on the same."""
    return _judged_on_text("written", np.load(Path("build/families/written.npz"))["x"])


#: Other teachers: file -> words of their tokenizer, rows of their tables.
OTHERS = {"pairs.pt2": (512, 512), "padded.pt2": (signs.WORDS, 104)}


def prepare(out: Path, teacher: str, others: Collection[str], *, writes: bool) -> None:
    """Train teachers, and have the first write what `written` reads, where it is not there yet.

    Args:
        out: the folder of all of them.
        teacher: of single signs.
        others: names in `OTHERS`.
        writes: whether text of the teacher's is wanted.
    """
    wanted = {teacher: (signs.WORDS, signs.WORDS), **{name: OTHERS[name] for name in others}}
    for name, (words, rows) in wanted.items():
        if not (out / name).exists():
            torch.manual_seed(0)
            model = signs.train(signs.LanguageModel(rows, 96, 3), words, 1200, 0)
            signs.tokenizer(words).save(str((out / name).with_suffix(".json")))
            signs.save(model, torch.from_numpy(signs.pieces(words, 4, test=False)), out / name)
    if writes and not (out / "written.npz").exists():
        _write(out / teacher, out / "written.npz")


def _write(teacher: Path, texts: Path) -> None:
    begun = {
        f"x_{part}": signs.pieces(signs.WORDS, count, part == "test")
        for part, count in (("train", PIECES), ("test", 16))
    }
    np.savez(texts.with_name("begun.npz"), **begun)
    words = signs.LENGTH - PROMPT
    options = f"prompt={PROMPT},words={words},temperature=1,batch=500"
    method = f"generate(prompts='{texts.with_name('begun.npz')}',{options})"
    given = {"factory": None, "state_key": None, "ignore_extra": False, "dtype": "float32"}
    graph = read_model(str(teacher), None, (), trust_pickle=False, **given).graph
    write(synthesize(graph, method, PIECES, say=print), texts)


def _judged_on_text(name: str, ids: np.ndarray) -> Dataset:
    train = Split((torch.from_numpy(ids),))
    test = Split((torch.from_numpy(signs.pieces(signs.WORDS, 400, test=True)),))
    return Dataset(name, train, train.take(256), test)
