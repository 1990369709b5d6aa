"""A record as a real run would leave it."""

import random
from datetime import UTC, datetime

from compressc.measure import Fidelity, Spread
from compressc.report import (
    DataRecord,
    Failure,
    FileRecord,
    LatencyRecord,
    Note,
    PassRecord,
    Record,
    TaskRecord,
    TeacherRecord,
)
from compressc.tasks.metric import ACCURACY, AGREEMENT


def latency(runtime: str, batch: int, teacher_ms: float, ratio: float, precision="int8"):
    rng = random.Random(f"{runtime}{batch}")
    noise = [rng.lognormvariate(0, 0.06) for _ in range(30)]
    teacher = Spread.of([teacher_ms * n for n in noise])
    result = Spread.of([teacher_ms * n / ratio * rng.lognormvariate(0, 0.04) for n in noise])
    return LatencyRecord.of(
        teacher, result, runtime=runtime, batch=batch, threads=1, precision=precision
    )


def pass_record(text: str, parameters: int, macs: int, accuracy: float, seconds: float, **more):
    name = text.partition("(")[0]
    values = {
        "name": name,
        "text": text,
        "options": {},
        "version": "0.1.0",
        "effect": "exact" if name == "simplify" else "lossy",
        "edits": {"set_layer": 6},
        "seconds": seconds,
        "cached": False,
        "ops": 20,
        "parameters": parameters,
        "macs": macs,
        "scores": {"accuracy": accuracy, "agreement": accuracy - 0.004},
    }
    return PassRecord(**(values | more))


#: Digits as a task: ten classes, all equally frequent.
TASK = TaskRecord(
    output="fc",
    kind="class_scores",
    labels=True,
    reason="output 'fc' is judged as class scores",
    metrics=[ACCURACY, AGREEMENT["class_scores"]],
    constant={"accuracy": 0.1, "agreement": 0.1},
)


def digits_passes() -> list[PassRecord]:
    skipped = [
        Note(op=f"layer{i}.conv", text="skipped: int8 needs a channel count of 8 or more")
        for i in range(1, 13)
    ]
    return [
        pass_record(
            "simplify",
            206_410,
            6_100_000,
            0.9870,
            0.12,
            scores={"accuracy": 0.9870, "agreement": 1.0},
            edits={"erase": 6, "set_layer": 6},
            inserted_for="quant",
        ),
        pass_record(
            "prune(ratio=0.5)",
            52_300,
            1_560_000,
            0.7241,
            1.31,
            notes=[Note(op="fc", text="skipped: its width is the output of the model")],
        ),
        pass_record("distill(epochs=30)", 52_300, 1_560_000, 0.9833, 41.7, cached=True),
        pass_record(
            "quant",
            52_300,
            1_560_000,
            0.9815,
            6.2,
            notes=[*skipped, Note(op="", text="no per-channel scales on this target")],
        ),
    ]


def digits_files() -> list[FileRecord]:
    proof = Fidelity(
        max_abs_error=2.4e-6, relative_rms_error=1.1e-7, cosine=1.0, agreement=1.0, samples=540
    )
    loose = Fidelity(
        max_abs_error=0.31, relative_rms_error=0.021, cosine=0.9998, agreement=0.9963, samples=540
    )
    return [
        FileRecord(
            format="pt2",
            path="model.pt2",
            bytes=231_000,
            teacher_bytes=861_000,
            proof=proof,
            scores={"accuracy": 0.9815, "agreement": 0.9852},
            latency=[
                latency("torch", 1, 0.41, 0.82),
                latency("torch", 64, 4.9, 1.04),
                latency("torch", 256, 21.0, 1.4),
            ],
        ),
        FileRecord(
            format="onnx",
            path="model.onnx",
            bytes=78_400,
            teacher_bytes=829_000,
            proof=loose,
            scores={"accuracy": 0.9796, "agreement": 0.9833},
            latency=[
                latency("onnxruntime", 1, 0.0713, 2.2),
                latency("onnxruntime", 64, 3.31, 3.4),
                latency("onnxruntime", 256, 14.2, 3.7),
            ],
        ),
        FileRecord(
            format="openvino",
            path="openvino/model.xml",
            bytes=161_000,
            teacher_bytes=874_000,
            proof=loose,
            scores={"accuracy": 0.9815, "agreement": 0.9852},
            latency=[
                latency("openvino", 1, 0.062, 2.4),
                latency("openvino", 64, 2.8, 4.1),
                latency("openvino", 256, 11.9, 4.6),
            ],
        ),
    ]


def digits_record() -> Record:
    return Record(
        compressc_version="0.1.0",
        created=datetime(2026, 11, 24, 12, 0, tzinfo=UTC),
        command='compressc model.pt --passes "prune(ratio=0.5),distill,quant" --data digits -o out',
        seed=0,
        versions={
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "nncf": "3.4.0",
            "onnxruntime": "1.32.0",
            "openvino": "2026.4.1",
        },
        machine={
            "cpu": "Example CPU @ 3.0 GHz",
            "cores": 2,
            "threads": 1,
            "system": "Linux",
            "architecture": "x86_64",
        },
        teacher=TeacherRecord(
            source="model.pt",
            ops=31,
            parameters=206_922,
            macs=6_140_000,
            scores={"accuracy": 0.9870},
            sha256="ab" * 32,
        ),
        task=TASK,
        data=DataRecord(
            name="digits", fingerprint="cd" * 32, train=1257, calibration=256, test=540, labels=True
        ),
        passes=digits_passes(),
        files=digits_files(),
        failures=[
            Failure(
                stage="backend tensorrt",
                code="CC107",
                message="no back end of that name is installed (got 'tensorrt')",
            )
        ],
        wall_seconds=63.2,
    )
