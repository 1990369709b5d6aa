"""What is known of an emitted file: plain values that the report shows and the manifest keeps."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from compressc.measure import Fidelity, Spread, Verdict, speedup


class Frozen(BaseModel):
    """A part of the record of a run."""

    # infinities as strings, because JSON has none and null would hide a broken measurement
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Scored(Frozen):
    """Something with scores, measured on samples that no pass has seen."""

    #: By the name of a `compressc.tasks.Metric`. One that has no meaning here is not there.
    scores: dict[str, float] = Field(default_factory=dict)
    #: Share that is right of each of `TaskRecord.classes`; None for one without labels.
    recalls: list[float | None] = Field(default_factory=list)

    @property
    def accuracy(self) -> float | None:
        """Share of labels met, where the task counts them."""
        return self.scores.get("accuracy")

    @property
    def agreement(self) -> float | None:
        """Share of the teacher's answers met, where the model puts out answers."""
        return self.scores.get("agreement")


class LatencyRecord(Frozen):
    """Teacher and result side by side in one runtime; build it with `of`."""

    runtime: str
    batch: int
    threads: int
    #: Of the computation in the result: `f32`, `int8`, ...
    precision: str
    teacher: Spread
    result: Spread
    #: Teacher / result: median of the ratios of the fastest samples of each block of rounds.
    speedup: float
    #: 10th and 90th percentile of these ratios.
    speedup_low: float
    speedup_high: float
    #: What the ratio is worth: only `faster` and `slower` are claims.
    verdict: Verdict

    @classmethod
    def of(  # noqa: PLR0913 (they are the fields)
        cls,
        teacher: Spread,
        result: Spread,
        *,
        runtime: str,
        batch: int,
        threads: int,
        precision: str,
    ) -> LatencyRecord:
        """The record of two callables timed by one call of `measure_latency`."""
        ratio = speedup(teacher, result)
        return cls(
            runtime=runtime,
            batch=batch,
            threads=threads,
            precision=precision,
            teacher=teacher,
            result=result,
            speedup=ratio.ratio,
            speedup_low=ratio.low,
            speedup_high=ratio.high,
            verdict=ratio.verdict,
        )


class FloatLayer(Frozen):
    """A layer that a runtime computes in float, though the model is quantized."""

    op: str
    reason: str


class Int8Layers(Frozen):
    """What a runtime computes in integers, read from the graph that it executes."""

    #: Convolutions and linear layers that run in integers, and all there are.
    ran: int
    of: int
    #: The others.
    left: list[FloatLayer] = Field(default_factory=list)


class Region(Frozen):
    """Neighbouring layers of a quantized graph, timed in integers and in floats in one runtime."""

    #: Layers that could run in integers.
    layers: list[str]
    #: Time of the file with this region in floats / with all in integers, as `LatencyRecord` has
    #: it: above 1 integers are faster; of several batch sizes the geometric mean. None where such a
    #: file could not be written or run.
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    #: At each batch size.
    speedups: list[float] = Field(default_factory=list)
    verdict: Verdict = "busy"
    #: Whether the file computes it in floats.
    floats: bool = False
    #: Why it is what it is, in words.
    reason: str


class Gains(Frozen):
    """Where a runtime is faster with integers, by regions; see `compressc.backend.gaining`."""

    #: Sizes that it was measured at, each counting alike.
    batches: list[int]
    regions: list[Region]
    #: What the file is made of, in words.
    outcome: str


class FileRecord(Scored):
    """An emitted file, held against the teacher in the same format; scored in its own runtime."""

    format: str
    #: Relative to the output folder.
    path: str
    bytes: int
    #: Size of the uncompressed teacher in this format; None where it could not be written.
    teacher_bytes: int | None
    #: None where the model is float, or the runtime has no integer kernels.
    int8_layers: Int8Layers | None = None
    #: Which regions are in integers, where that was measured; None: all that passes rounded.
    gains: Gains | None = None
    #: What the processor must have for the file to compute what was proved; "" where any does.
    needs: str = ""
    #: The file's outputs against the graph's; None where the file was not proved.
    proof: Fidelity | None = None
    latency: list[LatencyRecord] = Field(default_factory=list)


class Failure(Frozen):
    """Something that was asked for and did not come about."""

    #: `pass prune`, `backend onnx`, ...
    stage: str
    #: Of `compressc.errors.CODES`.
    code: str
    message: str
