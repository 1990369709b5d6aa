"""Tokenizers of files, and where two of them cut a text alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compressc.errors import CompresscError

#: What a tokenizer writes for a part of a character.
_BROKEN = "\ufffd"


class Cut(NamedTuple):
    """A place at which two tokenizers cut a text.

    Attributes:
        ours, theirs: words of each before it.
        our_next, their_next: the same with words of no width there (ends of texts and the like),
            which are in no span.
    """

    ours: int
    theirs: int
    our_next: int
    their_next: int


Cuts = list[Cut]


class Alphabet:
    """A tokenizer of a file.

    Args:
        path: a `tokenizer.json`.

    Raises:
        CompresscError: CC106 without the package `tokenizers`, CC300 for a file that is none.
    """

    def __init__(self, path: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            wanted = "a teacher of another tokenizer needs the package tokenizers"
            hint = "pip install tokenizers"
            raise CompresscError("CC106", wanted, got=str(error), hint=hint) from error
        self.path = path
        try:
            self.tokenizer: Any = Tokenizer.from_file(path)
        except Exception as error:  # the package raises nothing narrower
            wanted = "a tokenizer is a file tokenizer.json"
            raise CompresscError("CC300", wanted, got=str(error), where=path) from error

    @property
    def words(self) -> int:
        """How many it has."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def text(self, ids: Sequence[int]) -> tuple[str, list[int | None]]:
        """A text of words, and behind which sign each ends; None inside of a sign."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        begun = (
            self.tokenizer.decode(ids[: k + 1], skip_special_tokens=True) for k in range(len(ids))
        )
        return text, [len(part) if _begins(text, part) else None for part in begun]

    def plain(self, text: str) -> list[int]:
        """The words of a text, and none beside them."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def ids(self, text: str) -> tuple[list[int], list[int | None]]:
        """The words of a text, and behind which sign each ends; None inside of a sign."""
        found = self.tokenizer.encode(text)
        plain = [k for k, special in enumerate(found.special_tokens_mask) if not special]
        ends: list[int | None] = [None] * len(found.ids)
        for k, after in zip(plain, [*plain[1:], None], strict=True):
            end = found.offsets[k][1]
            begins = len(text) if after is None else found.offsets[after][0]
            ends[k] = end if begins >= end else None
        for k in set(range(len(ends))) - set(plain):  # of no width: where the word before it ends
            ends[k] = ends[k - 1] if k else 0
        return found.ids, ends


def _begins(text: str, part: str) -> bool:
    return text.startswith(part) and (not part.endswith(_BROKEN) or text == part)


def cuts(ours: Sequence[int | None], theirs: Sequence[int | None]) -> Cuts:
    """Where two tokenizers cut a text alike.

    Args:
        ours, theirs: behind which sign each word ends, never falling.
    """
    (mine, my_last), (its, its_last) = _until(ours), _until(theirs)
    places = sorted(mine.keys() & its.keys())
    return [Cut(mine[x], its[x], my_last[x], its_last[x]) for x in places]


def _until(ends: Sequence[int | None]) -> tuple[dict[int, int], dict[int, int]]:
    """How many words there are up to each end: without those of no width behind it, and with."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, end in enumerate(ends, 1):
        if end:
            first.setdefault(end, k)
            last[end] = k
    return first, last


def names_in(text: str) -> tuple[str, ...]:
    """The two files of `own.json,teacher.json`.

    Raises:
        ValueError: where there are not two.
    """
    found = tuple(part.strip() for part in text.split(",")) if text else ()
    if found and (len(found) != 2 or not all(found)):
        raise ValueError(f"tokenizers are two files, the run's model's first: {text!r}")
    return found


def digests(names: Sequence[str]) -> Mapping[str, str]:
    """sha256 of each file, where it can be read."""
    files = [Path(name) for name in names]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}
