"""A run that is killed -9 and given again ends with the same bytes: python benchmarks/kill.py

The digits job is run once without interruption, then over and over: killed at a random event, once
or several times, and given again until it is through. Every file but the report (which tells
seconds) must have the same bytes as those of the uninterrupted run, nothing may be left half
written beside the output folder or in the cache, and what the training lost is told: the steps that
were done twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PASSES = "prune(ratio=0.5),distill(epochs=8)"
#: With shifted images, whose answers are kept on disk.
LONG, AUGMENT = "prune(ratio=0.5),distill(epochs=20,views=4,answers=disk)", "shift"
#: They tell seconds and the time of day.
TIMED = {"manifest.json", "report.html"}


@dataclass(frozen=True)
class Job:
    """The command, and where it works."""

    model: Path
    passes: str
    augment: str
    every: float
    folder: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Begin it, or go on with it."""
        words = [sys.executable, "-m", "compressc", str(self.model), "--passes", self.passes]
        words += ["--data", "digits", "--threads", "1", "--batches", "", "--emit", "onnx", "-q"]
        words += ["--checkpoint-every", str(self.every), "--cache", str(self.folder / "cache")]
        words += ["--events", str(self.folder / "events.jsonl"), "-o", str(self.folder / "out")]
        words += ["--augment", self.augment] if self.augment else []
        return subprocess.Popen(words)

    def digests(self) -> dict[str, str]:
        """Of every file that does not tell the time."""
        out = self.folder / "out"
        return {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.rglob("*"))
            if path.is_file() and path.name not in TIMED
        }

    def events(self) -> list[dict[str, object]]:
        """What was told so far; the last line may be half a line."""
        path = self.folder / "events.jsonl"
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def leftovers(self) -> list[str]:
        """What should not be there when the run is through."""
        paths = [*self.folder.iterdir(), *(self.folder / "cache").iterdir()]
        return [path.name for path in paths if "partial" in path.name or "unfinished" in path.name]


def steps(events: list[dict[str, object]]) -> list[int]:
    """Of the training, as they were told."""
    return [
        int(str(event["done"]))
        for event in events
        if event["event"] == "progress" and str(event.get("what", "")).startswith("distill epoch")
    ]


def killed(job: Job, lines: int, wait: float) -> bool:
    """Begin, or go on, and kill at the given line of the events; whether it was still at work."""
    path, process = job.folder / "events.jsonl", job.start()
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            time.sleep(wait)
            process.kill()
            return process.wait() != 0
        time.sleep(0.002)
    return False


def trial(job: Job, lines: int, kills: int, rng: random.Random) -> tuple[list[str], int]:
    """Kill and go on; where it was at each kill, and the steps that were done twice.

    Args:
        job: where nothing was done yet.
        lines: events of a run that is not interrupted; most of them are steps of the training.
        kills: how often.
        rng: when.
    """
    places, twice, seen = [], 0, job.events()
    for _ in range(kills):
        if not killed(job, len(seen) + rng.randrange(lines), rng.uniform(0.0, 0.2)):
            places.append("through")
            break
        before = max(steps(seen := job.events()), default=0)
        places.append(str(seen[-1].get("what", seen[-1]["event"])) if seen else "the beginning")
    if job.start().wait() != 0:
        raise SystemExit("the run that goes on failed")
    again = steps(job.events()[len(seen) :])
    if places[-1] != "through" and before and again:
        twice = max(0, before - min(again) + 1)
    return places, twice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("model.pt"))
    parser.add_argument("--passes", default=PASSES)
    parser.add_argument(
        "--long", action="store_true", help="more epochs, augmented, answers on disk"
    )
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, good = random.Random(options.seed), 0
    passes, augment = (LONG, AUGMENT) if options.long else (options.passes, "")
    with tempfile.TemporaryDirectory() as place:
        whole = Job(options.model, passes, augment, options.every, Path(place, "whole"))
        whole.folder.mkdir()
        start = time.perf_counter()
        if whole.start().wait() != 0:
            raise SystemExit("the uninterrupted run failed")
        seconds = time.perf_counter() - start
        want, lines = whole.digests(), len(whole.events())
        print(f"uninterrupted: {seconds:.1f} s, {len(want)} files, {lines} events", flush=True)
        for number in range(1, options.trials + 1):
            job = Job(options.model, passes, augment, options.every, Path(place, str(number)))
            job.folder.mkdir()
            kills = rng.choice((1, 1, 2, 3))
            places, twice = trial(job, lines, kills, rng)
            same, left = job.digests() == want, job.leftovers()
            good += same and not left
            verdict = "same bytes" if same else "OTHER BYTES"
            print(
                f"{number}: killed in {', then '.join(places)}: {verdict}, left over: {left or 0}, "
                f"steps done twice after the last: {twice}",
                flush=True,
            )
    print(f"{good} of {options.trials} the same, nothing left over")
    if good < options.trials:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
