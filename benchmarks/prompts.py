"""Spoken prompts of Asterisk in five languages, for families.py: log-mel bands, and cepstra.

The first second of each prompt, 8 kHz. The teacher is a small CNN of its 40 log-mel bands, the
student sees 13 cepstral coefficients of these (MFCC) and knows few labels. Each language has one
voice, so that telling languages is telling voices. Prompts of the test are in no language's
training.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from functools import cache as once
from pathlib import Path

import numpy as np
import torch
from family_runs import Row, Setting
from tasks import fit
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.tasks import NO_LABEL

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples/teachers"))
import digits as example
import views

LANGUAGES = ("en", "es", "fr", "it", "ru")
RATE, WINDOW, HOP, BANDS = 8000, 256, 128, 40
#: Labels of each language that students know; prompts of the test, one of so many.
LABELLED, HELD_OUT = 20, 4
PLACE = Path("build/families")
HERE = "benchmarks/prompts.py"
STUDENT = "student(factory='examples/views.py:Mfcc')"
MFCC = Setting(
    "spoken.pt",
    f"{HERE}:few_mfcc",
    "5 languages of spoken prompts, student sees MFCC, 100 labels of 1,371",
    STUDENT,
    20,
    more=",student_inputs=mfcc",
    rival=Setting(
        "mfcc.pt",
        f"{HERE}:mfcc_alone",
        "5 languages of spoken prompts, MFCC, 100 labels",
        STUDENT,
        20,
    ),
)


def rows() -> Iterator[Row]:
    """Of the view."""
    yield Row("cross-modal: sound", MFCC, MFCC.taught("loss='0.1*ce + 0.9*kd'"))


@once
def _arrays() -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(PLACE / "spoken-prompts.pt", weights_only=True)
    return found


def few_mfcc() -> Dataset:
    """Bands f32[n,1,40,t] and coefficients f32[n,13,t]; 100 of those to learn from have a label."""
    data = _arrays()
    parts = []
    for part in ("train", "test"):
        bands, labels = data[f"x_{part}"], data[f"y_{part}"].clone()
        if part == "train":
            labels[~_known(labels)] = NO_LABEL
        parts.append(Split((bands, views.mfcc_of(bands)), labels, ("bands", "mfcc")))
    return Dataset("prompts and cepstra", parts[0], parts[0].take(256), parts[1])


def mfcc_alone() -> Dataset:
    """The coefficients of `few_mfcc`."""
    return few_mfcc().cast(lambda inputs: inputs[1:])


def _known(labels: Tensor) -> Tensor:
    """The first ones of each language."""
    known = torch.zeros_like(labels, dtype=torch.bool)
    for language in range(len(LANGUAGES)):
        known[(labels == language).nonzero()[:LABELLED, 0]] = True
    return known


def prepare(cache: Path) -> None:
    """Bands of the prompts, a teacher that knows all labels, and one that knows 100."""
    if (PLACE / "mfcc.pt").exists():
        return
    if not (PLACE / "spoken-prompts.pt").exists():
        torch.save(_heard(cache), PLACE / "spoken-prompts.pt")
    data = _arrays()
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    whole = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    fit(whole, _named(data["x_train"], data["y_train"]), F.cross_entropy, 8, 0.005)
    example.save(whole, data["x_train"][:4], PLACE / "spoken.pt")
    known = _known(data["y_train"])
    seen, right = views.mfcc_of(data["x_train"])[known], data["y_train"][known]
    first = (nn.Conv1d(views.COEFFICIENTS, 64, 5, 2), nn.BatchNorm1d(64), nn.ReLU())
    few = nn.Sequential(*first, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 5))
    fit(few, _named(seen, right), F.cross_entropy, 100, 0.005)
    example.save(few, seen[:4], PLACE / "mfcc.pt")


def _named(x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
    return {"x_train": x.numpy(), "y_train": y.numpy()}


def _heard(cache: Path) -> dict[str, Tensor]:
    """Log-mel bands f32[n,1,40,t] of the first second, in units of the training's deviation."""
    from quant_models import debian
    from scipy.io import wavfile

    sounds: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for label, language in enumerate(LANGUAGES):
        place = debian(cache, f"asterisk-core-sounds-{language}-wav")
        for path in sorted(place.rglob("*.wav")):
            sound = wavfile.read(path)[1].astype(np.float32) / 32768
            if len(sound) >= RATE:
                digest = hashlib.sha256(path.stem.encode()).digest()
                part = "test" if digest[0] % HELD_OUT == 0 else "train"
                sounds[part].append(sound[:RATE])
                labels[part].append(label)
    found = {}
    for part, clips in sounds.items():
        order = torch.from_numpy(np.random.RandomState(0).permutation(len(clips)))
        found[f"x_{part}"] = _bands(torch.from_numpy(np.stack(clips)))[order]
        found[f"y_{part}"] = torch.tensor(labels[part])[order]
    mean, deviation = found["x_train"].mean(), found["x_train"].std()
    return {name: (x - mean) / deviation if x.ndim > 1 else x for name, x in found.items()}


def _bands(sounds: Tensor) -> Tensor:
    """f32[n,8000] -> f32[n,1,40,t]: triangles on the mel scale, logarithms of their power."""
    power = torch.stft(
        sounds, WINDOW, HOP, window=torch.hann_window(WINDOW), center=False, return_complex=True
    )
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2) / 2595) - 1)
    hertz = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rise = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    triangles = torch.minimum(rise, fall).clamp_min(0)
    return (triangles @ power.abs().pow(2) + 1e-6).log()[:, None]
