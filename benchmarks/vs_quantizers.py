"""int8 by compressc and by others: python benchmarks/vs_quantizers.py digits=model.pt

    python benchmarks/vs_quantizers.py NAME=MODEL[:DATA] ... --peers VENV/bin/python

For each model the same float file, the same calibration samples and the same test samples for all:
NNCF alone, ONNX Runtime's own quantizer, torchao, and, where `--peers` names a Python that has
them, ModelOpt's ONNX PTQ and Neural Compressor. Told are accuracy on the test part, bytes of the
file, and latency at batch 1 on one thread beside the float model in the same runtime, interleaved
in one process. A quantizer that fails or is not there is named with what it said.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: Calibration samples, and how many are given at once.
SAMPLES, BATCH = 256, 32
#: Test samples that a model is run on at once.
TOGETHER = 250
#: Name -> what it quantizes, where it runs.
IN_PEERS = {"ModelOpt": "ONNX Runtime", "Neural Compressor": "torch.compile"}


@dataclass
class Row:
    """One quantizer on one model."""

    name: str
    runtime: str
    accuracy: float = float("nan")
    bytes: int = 0
    ratio: str = ""
    failed: str = ""


@dataclass
class Case:
    """A model, its samples, and where files are written."""

    folder: Path
    teacher: Any
    calibration: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor

    @property
    def one(self) -> torch.Tensor:
        """A test sample."""
        return self.x[:1]

    @property
    def onnx(self) -> Path:
        """The float model."""
        return self.folder / "float" / "model.onnx"

    def batches(self) -> list[torch.Tensor]:
        """Of calibration samples, of one size."""
        return list(self.calibration.split(BATCH))

    def accuracy(self, run: Callable[[torch.Tensor], Any]) -> float:
        """Share of the test samples that are right."""
        right = 0
        with torch.no_grad():
            for x, y in zip(self.x.split(TOGETHER), self.y.split(TOGETHER), strict=True):
                right += int((torch.as_tensor(run(x)).argmax(1) == y).sum())
        return right / len(self.y)


def faster(before: Callable[[], Any], after: Callable[[], Any]) -> str:
    """How many times faster: median and range of interleaved pairs."""
    from compressc.measure import measure_latency, speedup

    spreads = measure_latency({"before": before, "after": after}, rounds=31, threads=1)
    found = speedup(spreads["before"], spreads["after"])
    return f"{found.ratio:.2f}x ({found.low:.2f}-{found.high:.2f})"


def session(path: Path) -> Callable[[torch.Tensor], np.ndarray[Any, Any]]:
    """ONNX Runtime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    runtime = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (given,) = runtime.get_inputs()
    return lambda x: runtime.run(None, {given.name: x.numpy()})[0]


def onnx_row(case: Case, name: str, path: Path) -> Row:
    """A row for an ONNX file."""
    before, after = session(case.onnx), session(path)
    ratio = faster(partial(before, case.one), partial(after, case.one))
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}*"))
    return Row(name, "ONNX Runtime", case.accuracy(after), size, ratio)


def openvino_row(case: Case, name: str, model: Any, float_model: Any) -> Row:
    """A row for an OpenVINO model, which is written."""
    import openvino

    path = case.folder / name / "model.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}

    def ready(loaded: Any) -> Callable[[torch.Tensor], Any]:
        compiled = core.compile_model(loaded, "CPU", hints)
        return lambda x: compiled(x.numpy())[0]

    before, after = ready(float_model), ready(core.read_model(path))
    ratio = faster(partial(before, case.one), partial(after, case.one))
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    return Row(name, "OpenVINO", case.accuracy(after), size, ratio)


def ours(case: Case, text: str, data: Any) -> Iterator[Row]:
    """compressc, in both runtimes."""
    import openvino

    import compressc
    from compressc.backend import load_backend

    compiled = compressc.compile(case.teacher, text, data=data, seed=0)
    name = f"compressc `{text}`"
    folder = case.folder / text
    path = load_backend("onnx").emit(compiled.graph, folder, (case.calibration[:8],))
    yield onnx_row(case, name, path)
    place = load_backend("openvino").emit(compiled.graph, folder, (case.calibration[:8],))
    core = openvino.Core()
    file = place if place.suffix == ".xml" else next(place.parent.rglob("*.xml"))
    yield openvino_row(case, name, core.read_model(file), core.read_model(case.onnx))


def nncf_alone(case: Case) -> Iterator[Row]:
    """NNCF on the ONNX file and on the OpenVINO model, its defaults."""
    import nncf
    import onnx
    import openvino

    items = [batch.numpy() for batch in case.batches()]
    model = onnx.load(case.onnx)
    given = model.graph.input[0].name
    made = nncf.quantize(model, nncf.Dataset(items, lambda x: {given: x}), subset_size=len(items))
    path = case.folder / "nncf" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    onnx.save(made, path)
    yield onnx_row(case, "NNCF", path)
    before = openvino.Core().read_model(case.onnx)
    made = nncf.quantize(before, nncf.Dataset(items), subset_size=len(items))
    yield openvino_row(case, "NNCF", made, openvino.Core().read_model(case.onnx))


def onnx_runtime(case: Case) -> Iterator[Row]:
    """ONNX Runtime's own static quantizer: QDQ, a scale per channel; s8 activations, and u8."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder = case.folder / "onnxruntime"
    folder.mkdir()
    prepared, given = folder / "prepared.onnx", session_input(case.onnx)
    quant_pre_process(str(case.onnx), str(prepared))

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(case.batches())

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {given: batch.numpy()}

    for name, kind in (("s8", quantization.QuantType.QInt8), ("u8", quantization.QuantType.QUInt8)):
        path = folder / f"{name}.onnx"
        quantization.quantize_static(
            str(prepared), str(path), Reader(), per_channel=True, activation_type=kind
        )
        yield onnx_row(case, f"ONNX Runtime's quantizer, {name} activations", path)


def session_input(path: Path) -> str:
    """Name of the input of an ONNX file."""
    import onnx

    return str(onnx.load(path).graph.input[0].name)


def torchao(case: Case) -> Iterator[Row]:
    """torchao's int8 for linear layers, ranges at run time, in torch.compile."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    before, after = (float_module(case.folder) for _ in "ab")
    quantize_(after, Int8DynamicActivationInt8WeightConfig())
    path = case.folder / "torchao.pt"
    torch.save(after.state_dict(), path)
    yield torch_row(case, "torchao int8 dynamic", before, after, path.stat().st_size)


def float_module(folder: Path) -> torch.nn.Module:
    """The model as ATen calls and modules."""
    from compressc.frontend import load_model
    from compressc.ir import lower

    return lower(load_model(folder / "float.pt2").graph)


def torch_row(case: Case, name: str, before: Any, after: Any, size: int) -> Row:
    """A row for modules, both compiled."""
    before, after = (torch.compile(module) for module in (before, after))
    with torch.no_grad():
        ratio = faster(partial(before, case.one), partial(after, case.one))
        return Row(name, "torch.compile", case.accuracy(after), size, ratio)


def modelopt(case: Case) -> Iterator[Row]:
    """ModelOpt's ONNX PTQ, its defaults on a CPU."""
    from modelopt.onnx.quantization import quantize

    path = case.folder / "modelopt" / "model.onnx"
    path.parent.mkdir()
    quantize(
        str(case.onnx),
        quantize_mode="int8",
        calibration_data={session_input(case.onnx): case.calibration.numpy()},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(path),
    )
    yield onnx_row(case, "ModelOpt", path)


def neural_compressor(case: Case) -> Iterator[Row]:
    """Neural Compressor's static quantization of torch modules."""
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

    before = float_module(case.folder)
    (batch, *others) = case.batches()
    sizes = ({0: torch.export.Dim("n", min=1, max=4096)},)
    module = prepare(export(before, (batch,), dynamic_shapes=sizes), get_default_static_config())
    for x in (batch, *others):
        module(x)
    after = convert(module)
    path = case.folder / "inc.pt"
    torch.save(after.state_dict(), path)
    yield torch_row(case, "Neural Compressor", before, after, path.stat().st_size)


QUANTIZERS = {
    "NNCF": nncf_alone,
    "ONNX Runtime": onnx_runtime,
    "torchao": torchao,
    "ModelOpt": modelopt,
    "Neural Compressor": neural_compressor,
}


def rows_of(case: Case, name: str) -> list[Row]:
    """What a quantizer makes, or how it failed."""
    try:
        return list(QUANTIZERS[name](case))
    except Exception as error:  # whatever a peer does must not end the run
        text = str(error).strip().splitlines() or [""]
        return [Row(name, "", failed=f"{type(error).__name__}: {text[0][:120]}")]


def elsewhere(python: str, folder: Path, name: str) -> list[Row]:
    """The same in another Python."""
    words = [python, __file__, "--worker", name, "--folder", str(folder)]
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root), str(root / "plugins")])
    env = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    found = [line for line in done.stdout.splitlines() if line.startswith("ROWS ")]
    if not found:
        text = done.stderr.strip().splitlines() or ["no word"]
        return [Row(name, "", failed=text[-1][:140])]
    return [Row(**row) for row in json.loads(found[-1][5:])]


def table(title: str, case: Case, found: list[Row]) -> None:
    """Print the rows of one model."""
    exact = case.accuracy(session(case.onnx))
    size = case.onnx.stat().st_size
    print(f"\n{title}: float {exact:.2%}, {size / 1e6:.2f} MB; {len(case.y):,} test samples\n")
    print("| quantizer | runtime | accuracy | bytes | batch 1, times the float model's speed |")
    print("|---|---|---|---|---|")
    for row in found:
        if row.failed:
            print(f"| {row.name} | | {row.failed} | | |")
            continue
        drop = f"{row.accuracy:.2%} ({100 * (row.accuracy - exact):+.2f})"
        print(
            f"| {row.name} | {row.runtime} | {drop} | {row.bytes / 1e6:.2f} MB | {row.ratio} |",
            flush=True,
        )


def prepared(model: str, data_name: str, folder: Path) -> tuple[Case, Any]:
    """The float files, and samples as tensors."""
    from compressc.backend import load_backend
    from compressc.data import open_dataset
    from compressc.frontend import load_model
    from compressc.ir import lower

    data = open_dataset(data_name)
    calibration = data.calibration.take(SAMPLES).inputs[0]
    calibration = calibration[: len(calibration) // BATCH * BATCH].contiguous().clone()
    test = data.test.take(len(data.test))
    graph = load_model(model, example=(calibration[:8],)).graph
    load_backend("onnx").emit(graph, folder / "float", (calibration[:8],))
    sizes = ({0: torch.export.Dim("n", min=1, max=4096)},)
    program = torch.export.export(lower(graph), (calibration[:8],), dynamic_shapes=sizes)
    torch.export.save(program, folder / "float.pt2")
    arrays = {"calibration": calibration, "x": test.inputs[0], "y": test.labels}
    np.savez(folder / "samples.npz", **{name: x.numpy() for name, x in arrays.items()})
    return Case(folder, model, **arrays), data_name


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="NAME=MODEL[:DATA]")
    parser.add_argument("--peers", help="a Python with ModelOpt and Neural Compressor")
    parser.add_argument("--passes", nargs="*", default=["quant"])
    parser.add_argument("--worker", choices=list(IN_PEERS))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.worker:
        arrays = np.load(given.folder / "samples.npz")
        case = Case(given.folder, None, **{name: torch.from_numpy(arrays[name]) for name in arrays})
        print("ROWS " + json.dumps([asdict(row) for row in rows_of(case, given.worker)]))
        return
    for text in given.models:
        name, _, rest = text.partition("=")
        model, _, data = rest.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            case, source = prepared(model, data or "digits", Path(folder))
            found = [row for words in given.passes for row in ours(case, words, source)]
            for peer in QUANTIZERS:
                if peer not in IN_PEERS:
                    found += rows_of(case, peer)
                elif given.peers:
                    found += elsewhere(given.peers, Path(folder), peer)
                else:
                    found.append(Row(peer, "", failed="not there: see --peers"))
            table(name, case, found)


if __name__ == "__main__":
    sys.exit(main())
