"""Every task on real data, through the command line: python benchmarks/tasks.py segmenter

Trains a teacher on data at hand (scikit-learn's digits, the sources of Python's standard library),
writes it and its data, and runs `compressc` on them as a user would: what is printed is read off
`manifest.json`. `embedding` and `fashion` fetch a package into `--cache` first. Without a name, all
that need no network.
"""

from __future__ import annotations

import argparse
import io
import json
import keyword
import subprocess
import sys
import sysconfig
import time
import tokenize
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import recovery
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

# In front: fashion wants the digits.py beside it, not the one beside this file.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "teachers"))
import fashion as fashion_mnist

PASSES = "prune(ratio=0.3),distill(epochs={epochs}),quant"
SIDE, WINDOW = 32, 96
Loss = Callable[[Tensor, Tensor], Tensor]
Arrays = dict[str, np.ndarray]
Make = Callable[[int, bool], tuple[np.ndarray, np.ndarray]]


def fit(net: nn.Module, data: Arrays, loss: Loss, epochs: int, rate: float = 2e-3) -> nn.Module:
    """AdamW with a cosine."""
    x, y = (torch.from_numpy(data[key]) for key in ("x_train", "y_train"))
    steps = epochs * -(-len(x) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    draw = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=draw).split(64):
            optimizer.zero_grad()
            loss(net(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


# ---- pictures of digits --------------------------------------------------------------------


def glyphs(test: bool) -> tuple[np.ndarray, np.ndarray]:
    """A part of scikit-learn's digits, f32[n,8,8] in 0..1; the parts share none."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    chosen = order[:400] if test else order[400:]
    return images.reshape(-1, 8, 8)[chosen].astype(np.float32) / 16, labels[chosen]


def scenes(count: int, test: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures of one to four digits in noise: f32[n,1,32,32], classes i64[n,32,32], i64[n,10]."""
    draw, (images, labels) = np.random.RandomState(2 + test), glyphs(test)
    x = draw.uniform(0, 0.25, (count, 1, SIDE, SIDE)).astype(np.float32)
    classes = np.zeros((count, SIDE, SIDE), np.int64)
    present = np.zeros((count, 10), np.int64)
    for row in range(count):
        corners = draw.permutation([(0, 0), (0, 16), (16, 0), (16, 16)])
        for top, left in corners[: draw.randint(1, 5)]:
            which, scale = draw.randint(len(labels)), draw.randint(1, 3)
            glyph = np.kron(images[which], np.ones((scale, scale), np.float32))
            place = (row, *(_span(start, len(glyph), draw) for start in (top, left)))
            x[row, 0][place[1:]] += glyph
            classes[place][glyph > 0.3] = 1 + labels[which]
            present[row, labels[which]] = 1
    return x, classes, present


def _span(start: int, length: int, draw: np.random.RandomState) -> slice:
    """So many pixels somewhere in a quarter that is 16 wide."""
    first = start + draw.randint(17 - length)
    return slice(first, first + length)


def rotated(count: int, test: bool) -> tuple[np.ndarray, np.ndarray]:
    """Digits turned by up to 60 degrees, f32[n,1,16,16], and the angle over 60, f32[n,1]."""
    draw, (images, labels) = np.random.RandomState(4 + test), glyphs(test)
    images = images[(labels != 0) & (labels != 8)]  # these look the same both ways up
    angle = torch.from_numpy(draw.uniform(-1, 1, count).astype(np.float32))
    turn = torch.deg2rad(60 * angle)
    zero = torch.zeros(count)
    rows = [
        torch.stack(r, 1) for r in ((turn.cos(), -turn.sin(), zero), (turn.sin(), turn.cos(), zero))
    ]
    x = torch.from_numpy(images[draw.randint(len(images), size=count)])[:, None]
    x = F.interpolate(x, size=16, mode="bilinear")
    grid = F.affine_grid(1.4 * torch.stack(rows, 1), [count, 1, 16, 16], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).numpy(), angle[:, None].numpy()


def block(width_in: int, width_out: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(width_in, width_out, 3, padding=1), nn.BatchNorm2d(width_out), nn.ReLU()),
        *(nn.Conv2d(width_out, width_out, 3, padding=1), nn.BatchNorm2d(width_out), nn.ReLU()),
    )


class UNet(nn.Module):
    """f32[b,1,32,32] -> scores f32[b,11,32,32]."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(1, 16), block(16, 32), block(32, 64)])
        self.up = nn.ModuleList([block(96, 32), block(48, 16)])
        self.head = nn.Conv2d(16, 11, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        skips = []
        for i, stage in enumerate(self.down):
            x = stage(x if i == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for stage, skip in zip(self.up, (skips[1], skips[0]), strict=True):
            x = stage(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))
        return self.head(x)


def pooled(outputs: int) -> nn.Module:
    """A plain convolutional net."""
    stages = [block(1, 24), nn.MaxPool2d(2), block(24, 48), nn.MaxPool2d(2), block(48, 64)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(2), nn.Flatten(1), nn.Linear(256, outputs))


# ---- the sources of the standard library ---------------------------------------------------

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))  # 97 signs with one for all others
KINDS = ("blank", "keyword", "name", "number", "string", "comment", "operator")


def sources(test: bool) -> list[str]:
    """Modules of the standard library; every fifth is for the test."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    chosen = [p for i, p in enumerate(paths) if (i % 5 == 0) == test]
    return [path.read_text(encoding="utf-8", errors="replace") for path in chosen]


def encoded(text: str) -> np.ndarray:
    """Each sign's number, i64[length]."""
    return np.array([ALPHABET.find(sign) + 1 for sign in text], np.int64)


def tagged(text: str) -> np.ndarray:
    """What each sign belongs to, by Python's own tokenizer: i64[length]."""
    starts = np.cumsum([0, *(len(line) for line in text.splitlines(keepends=True))])
    tags = np.zeros(len(text), np.int64)
    kinds = {tokenize.NUMBER: 3, tokenize.STRING: 4, tokenize.COMMENT: 5, tokenize.OP: 6}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = kinds.get(token.type, 0)
        if token.type == tokenize.NAME:
            kind = 1 if keyword.iskeyword(token.string) else 2
        first, last = (starts[row - 1] + column for row, column in (token.start, token.end))
        tags[first:last] = kind
    return tags


def windows(count: int, test: bool, tags: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of code, i64[n,96], and their tags i64[n,96]."""
    texts = sources(test)
    signs = np.concatenate([encoded(text) for text in texts])
    marks = np.concatenate([tagged(text) for text in texts]) if tags else signs
    starts = np.random.RandomState(6 + test).randint(len(signs) - WINDOW, size=count)
    places = starts[:, None] + np.arange(WINDOW)
    return signs[places], marks[places]


class Reader(nn.Module):
    """A transformer over signs: i64[b,s] -> f32[b,s,outputs]; `causal` looks back only."""

    def __init__(self, outputs: int, width: int, depth: int, causal: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(97, width), nn.Embedding(WINDOW, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        self.causal = causal
        mask = torch.full((WINDOW, WINDOW), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:  # noqa: D102
        length = ids.shape[1]
        x = self.embed(ids) + self.place.weight[:length]
        mask = self.mask[:length, :length] if self.causal else None
        for layer in self.blocks:
            x = layer(x, src_mask=mask)
        return self.head(self.norm(x))


def by_position(scores: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of f32[b,s,v] against i64[b,s]."""
    return F.cross_entropy(scores.flatten(0, 1), classes.flatten())


def next_sign(scores: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy of each position with the sign that follows."""
    return by_position(scores[:, :-1], ids[:, 1:])


# ---- the runs --------------------------------------------------------------------------------


def parts(
    make: Callable[[int, bool], tuple[np.ndarray, np.ndarray]], train: int, test: int
) -> Arrays:
    """The keys of a `.npz` file that compressc divides no further."""
    found = {}
    for name, count, held_out in (("train", train, False), ("test", test, True)):
        found[f"x_{name}"], found[f"y_{name}"] = make(count, held_out)
    return found


def segmenter() -> tuple[nn.Module, Arrays]:
    """A U-Net that says which digit each pixel belongs to."""
    data = parts(lambda n, test: scenes(n, test)[:2], 2400, 400)
    return fit(UNet(), data, F.cross_entropy, 12), data


def multilabel() -> tuple[nn.Module, Arrays]:
    """Which digits are in the picture."""
    data = parts(lambda n, test: scenes(n, test)[::2], 4000, 1000)
    loss: Loss = lambda x, y: F.binary_cross_entropy_with_logits(x, y.float())  # noqa: E731
    return fit(pooled(10), data, loss, 15), data


def regressor() -> tuple[nn.Module, Arrays]:
    """By how much a digit is turned."""
    data = parts(rotated, 4000, 1000)
    return fit(pooled(1), data, F.mse_loss, 15), data


def tagger() -> tuple[nn.Module, Arrays]:
    """What each sign of Python code belongs to."""
    data = parts(lambda n, test: windows(n, test, tags=True), 4000, 500)
    return fit(Reader(len(KINDS), 64, 3, causal=False), data, by_position, 6, 1e-3), data


def language_model() -> tuple[nn.Module, Arrays]:
    """The next sign of Python code; the data have no labels, the text is its own."""
    data = parts(lambda n, test: windows(n, test, tags=False), 6000, 400)
    net = fit(Reader(97, 64, 3, causal=True), data, next_sign, 8, 2e-3)
    return net, {key: value for key, value in data.items() if key.startswith("x")}


def embedding(cache: Path) -> tuple[nn.Module, Arrays]:
    """MiniLM, mean-pooled and normalized, on glosses of WordNet; see `recovery`."""
    recovery.fetch(cache)
    case = recovery.embedder(cache)
    data = {}
    for name, part in (("train", case.data.train), ("test", case.data.test)):
        for i, tensor in enumerate(part.inputs):
            data[f"x{i}_{name}"] = tensor.numpy()
    return case.teacher, data


def fashion(cache: Path) -> tuple[nn.Module, Arrays]:
    """A small residual net on Fashion-MNIST, of Debian's package, by its official parts."""
    data = fashion_mnist.official(cache)
    stages = [block(1, 24), nn.MaxPool2d(2), block(24, 48), nn.MaxPool2d(2), block(48, 96)]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(96, 10))
    return fit(net, data, F.cross_entropy, 2), data


#: name -> (teacher and data, task, epochs of distillation)
RUNS: Mapping[str, tuple[Callable[[], tuple[nn.Module, Arrays]], str, int]] = {
    "segmenter": (segmenter, "segmentation", 6),
    "multilabel": (multilabel, "multilabel", 8),
    "regressor": (regressor, "regression", 8),
    "tagger": (tagger, "tokens", 4),
    "language_model": (language_model, "language_model", 4),
}


#: Those that fetch a package.
FETCHED: Mapping[str, tuple[Callable[[Path], tuple[nn.Module, Arrays]], str, int]] = {
    "embedding": (embedding, "embedding", 4),
    "fashion": (fashion, "classification", 2),
}


def write(net: nn.Module, data: Arrays, folder: Path) -> None:
    """`model.pt2`, and the data as files that are read row by row where they are large."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, array in data.items():
        np.save(folder / "data" / f"{name}.npy", array)
    inputs = [array for name, array in data.items() if name[0] == "x" and name.endswith("train")]
    example = tuple(torch.from_numpy(array[:4]) for array in inputs)
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    program = torch.export.export(net, example, dynamic_shapes=(batch,) * len(example))
    torch.export.save(program, folder / "model.pt2")


def compress(model: Path | str, data: str, task: str, epochs: int, out: Path) -> None:
    """The command, and what its manifest says."""
    passes = PASSES.format(epochs=epochs)
    command = [str(Path(sys.executable).with_name("compressc")), str(model), "--data", data]
    command += ["--task", task, "--passes", passes, "-o", str(out), "--no-cache", "--quiet"]
    print("$", " ".join(["compressc", *command[1:]]))
    started = time.perf_counter()
    subprocess.run(command, check=True)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    teacher = manifest["teacher"]
    print(f"{task}: {teacher['parameters']:,} parameters, {time.perf_counter() - started:.0f} s")
    print(f"  {'teacher':26}", shown(teacher["scores"]))
    for entry in manifest["passes"]:
        print(
            f"  {entry['text']:26}", shown(entry["scores"]), f"{entry['parameters']:,} parameters"
        )
    for file in manifest["files"]:
        smaller = file["teacher_bytes"] / file["bytes"]
        faster = " / ".join(_speedup(one) for one in file["latency"])
        print(f"  {file['format']:26}", shown(file["scores"]), f"{smaller:.1f}x smaller {faster}")


def _speedup(latency: Mapping[str, object]) -> str:
    """`2.31x` where it is one."""
    return (
        f"{latency['speedup']:.2f}x" if latency["verdict"] == "faster" else str(latency["verdict"])
    )


def shown(scores: Mapping[str, float]) -> str:
    """All of them."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*RUNS, *FETCHED])}")
    parser.add_argument("--out", type=Path, default=Path("build/tasks"))
    parser.add_argument("--cache", type=Path, default=Path("build/packages"))
    arguments = parser.parse_args()
    for name in arguments.names or RUNS:
        folder = arguments.out / name
        torch.manual_seed(0)
        if name in RUNS:
            teach, task, epochs = RUNS[name]
        else:
            asked, task, epochs = FETCHED[name]
            teach = partial(asked, arguments.cache)
        if not (folder / "model.pt2").exists():
            write(*teach(), folder)
        compress(folder / "model.pt2", f"{folder}/data/", task, epochs, folder / "out")


if __name__ == "__main__":
    main()
