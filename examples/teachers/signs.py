"""Train a small language model of Python's own sources, and write it with its text.

    python examples/teachers/signs.py --out language/

The folder gets `model.pt2`, `text.npz` (ids of pieces of text, `x_train` and `x_test`) and
`tokenizer.json`. Words are single signs; with `--words 512` they are pieces of words that are
frequent in the text, by byte-pair encoding. It needs no network, and the package `tokenizers`.
"""

from __future__ import annotations

import argparse
import sysconfig
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from digits import save
from torch import Tensor, nn
from torch.nn import functional as F

#: 97 signs: these, and one for all others.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
OTHER = "\ufffd"
WORDS, LENGTH = 97, 64


class LanguageModel(nn.Module):
    """A causal transformer: ids i64[b,s] -> scores f32[b,s,words]."""

    def __init__(self, words: int, width: int, depth: int, length: int = LENGTH) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)
        self.register_buffer("mask", torch.full((length, length), -torch.inf).triu(1), False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """See the class."""
        length = input_ids.shape[1]
        x = self.embed(input_ids) + self.place.weight[:length]
        for block in self.blocks:
            x = block(x, src_mask=self.mask[:length, :length])
        return self.head(self.norm(x))


@cache
def source(test: bool) -> str:
    """The modules of the standard library, one behind the other; every fifth is for the test."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    chosen = [path for i, path in enumerate(paths) if (i % 5 == 0) == test]
    whole = "".join(path.read_text(encoding="utf-8", errors="replace") for path in chosen)
    return "".join(sign if sign in ALPHABET else OTHER for sign in whole)


@cache
def tokenizer(words: int):
    """A tokenizer of so many words: of single signs where there are 97."""
    from tokenizers import Tokenizer, decoders, models, trainers

    signs = [OTHER, *ALPHABET]
    if words == WORDS:
        made = Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, []))
    else:
        made = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=words, initial_alphabet=signs, show_progress=False, max_token_length=8
        )
        lines = source(test=False).splitlines(keepends=True)
        made.train_from_iterator(lines, trainer)
    made.decoder = decoders.Fuse()
    return made


@cache
def ids(words: int, test: bool) -> np.ndarray:
    """The text as ids, i64[length]."""
    lines = source(test).splitlines(keepends=True)
    found = tokenizer(words).encode_batch_fast(lines, add_special_tokens=False)
    return np.concatenate([np.array(line.ids, np.int64) for line in found])


def pieces(words: int, count: int, test: bool, length: int = LENGTH, seed: int = 6) -> np.ndarray:
    """Pieces of text from anywhere in it, i64[count,length]."""
    text = ids(words, test)
    starts = np.random.RandomState(seed + test).randint(len(text) - length, size=count)
    return text[starts[:, None] + np.arange(length)]


def loss(model: nn.Module, text: Tensor) -> Tensor:
    """Cross entropy of each word by those before it."""
    return F.cross_entropy(model(text)[:, :-1].flatten(0, 1), text[:, 1:].flatten())


def train(model: nn.Module, words: int, steps: int, seed: int, rate: float = 3e-3) -> nn.Module:
    """By pieces of text that are new in each step."""
    text, draw = torch.from_numpy(ids(words, test=False)), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps + 1)
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH, (64, 1), generator=draw)
        optimizer.zero_grad()
        loss(model, text[starts + torch.arange(LENGTH)]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def perplexity(model: nn.Module, words: int) -> float:
    """Of text that was not trained on."""
    return float(loss(model, torch.from_numpy(pieces(words, 256, test=True))).exp())


def main() -> None:
    """Train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("language"), help="folder to write")
    parser.add_argument("--words", type=int, default=WORDS)
    parser.add_argument("--rows", type=int, help="of the tables of words, where they are padded")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--pieces", type=int, default=2000, help="of text to write")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(given.seed)
    model = LanguageModel(given.rows or given.words, given.width, given.depth)
    train(model, given.words, given.steps, given.seed)
    seconds = time.perf_counter() - started
    given.out.mkdir(parents=True, exist_ok=True)
    parts = {f"x_{name}": pieces(given.words, n, name == "test")
             for name, n in (("train", given.pieces), ("test", 400))}  # fmt: skip
    np.savez(given.out / "text.npz", **parts)
    tokenizer(given.words).save(str(given.out / "tokenizer.json"))
    save(model, torch.from_numpy(parts["x_train"][:4]), given.out / "model.pt2")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters:,} parameters, perplexity {perplexity(model, given.words):.2f} on other")
    print(f"modules, trained in {seconds:.0f} s; wrote {given.out}/")


if __name__ == "__main__":
    main()
