"""`quant(train=true)`: a rounded graph learns to answer as the teacher does.

Weights, scales of weights and values, biases and norms are trained while everything is rounded as
it will be (Jacob et al. 2018, arXiv 1712.05877, section 3; scales as in arXiv 1902.08153), against
the teacher's answers. What comes of it is the graph that was given, with other integers and scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import fx, nn

from compressc.distillation import (
    BY_OUTPUT,
    Loss,
    Objective,
    Pair,
    Teaching,
    choose_points,
    find_pairs,
    loss_of_answers,
    parse_objective,
    teachings,
)
from compressc.ir import Graph
from compressc.ir.layer_building import copy_layer
from compressc.ir.quantized import DEQUANTIZE, QUANTIZE, QUANTIZED, quantized_kind
from compressc.ir.trainable import TWIN, TrainableValue, TrainableWeight
from compressc.pipeline import Context, Samples
from compressc.spec import Weighted
from compressc.tasks import SettledTask, task_of
from compressc.training import Checkpoints, Hooks, Moment, Recipe, TrainingResult, train
from compressc.training.rate import relative_rate
from compressc_quant.restoring import Held
from compressc_quant.weights import most_used

#: Samples in a step.
BATCH = 32
#: Share of a step that trains from further away (`relative_rate`): rounded weights are near.
RATE = 0.3
#: At how many ends of blocks inner values are compared, and by what.
POINTS, INNER = 4, "hint"
#: Epochs of a run whose length is given in steps.
_MANY = 1000
#: Kinds of quantized layers that have a twin.
_TRAINED = frozenset(map(quantized_kind, QUANTIZED))


@dataclass(frozen=True)
class Course:
    """How to train.

    Attributes:
        steps: of the optimizer.
        rate: peak of the learning rate; None for 0.003 of a typical weight.
        features: weight of inner values beside the answers.
    """

    steps: int
    rate: float | None
    features: float


def learn(
    graph: Graph,
    before: dict[str, Held],
    parts: tuple[Samples, Samples],
    course: Course,
    ctx: Context,
) -> None:
    """Train a quantized graph in place; it stays as it is where nothing better is found.

    Args:
        graph: quantized.
        before: its layers as they were; becomes what they are as floats behind the training.
        parts: samples that are learned from, and others that tell which state is best.
        course: how long, how fast, and by what.
        ctx: has the teacher.
    """
    task = task_of(ctx)
    layers = _with_twins(graph, before)
    for op in graph:
        if op.role == "recurrent" and op.weight_form is not None:
            ctx.note(op.name, "not trained: matrices of recurrent layers keep their integers")
    if not layers:
        ctx.note("", "not trained: no linear layer, convolution or table has a rounded weight")
        return
    try:
        with ExitStack() as opened:
            matched = _inner_values(graph, ctx) if course.features else ()
            loss = _loss(task, course.features if matched else 0.0)
            taught, exam = teachings(graph, ctx, parts, loss, matched=matched, opened=opened)
            student = taught.student
            values = _trainable_values(student.module)
            student.module.to(ctx.device)
            result = _train(taught, exam, course, ctx)
        student.module.to("cpu")
        if result.best_epoch:
            _store(graph, layers, values, before)
    finally:
        for name in layers:
            del graph[name].layer._modules[TWIN]  # type: ignore[union-attr]
    _tell(result, exam, len(layers), ctx)


def _inner_values(graph: Graph, ctx: Context) -> list[Pair]:
    """Ends of blocks that the teacher has, too: what is rounded is held against them."""
    pairs = find_pairs(graph, ctx.teacher)
    ends = choose_points(graph, task_of(ctx).value_in(graph), pairs, POINTS)
    return [pairs[name] for name in ends]


def _loss(task: SettledTask, features: float) -> Loss:
    """The distance of the answers, and of inner values with a weight of their own."""
    answers = loss_of_answers(task)
    if not features:
        return answers
    inner = Weighted(features, parse_objective(INNER))
    return replace(answers, terms=(*answers.terms, inner))


def objectives(features: float) -> tuple[type[Objective], ...]:
    """All that may be used, whatever the outputs turn out to be."""
    names = [*BY_OUTPUT.values(), *([INNER] if features else [])]
    return tuple(dict.fromkeys(type(parse_objective(name)) for name in names))


def _train(taught: Teaching, exam: Teaching, course: Course, ctx: Context) -> TrainingResult:
    module = taught.student.module
    batches = taught.batches(min(BATCH, len(taught.samples)))
    rate = RATE * relative_rate(module.parameters()) if course.rate is None else course.rate
    recipe = Recipe(
        epochs=_MANY,
        learning_rate=rate,
        seed=ctx.seed,
        dropout=False,
        batch_statistics=False,
        steps=course.steps,
        keep_zeros=False,
    )
    return train(
        module,
        taught.lesson(batches, exam.examine),
        recipe,
        hooks=[_Told(ctx)],
        checkpoints=Checkpoints.of(ctx.store, "training rounded"),
    )


class _Told(Hooks):
    """Progress."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def stepped(self, moment: Moment) -> None:
        """See `Hooks`."""
        facts = {"losses": {"loss": moment.loss, "held-out loss": -moment.score[0]}}
        self.ctx.progress("training rounded", moment.step, moment.steps, **facts)


def _with_twins(graph: Graph, before: Mapping[str, Held]) -> dict[str, TrainableWeight]:
    """Give each rounded layer a twin that stands in for its integers; tied ones share it."""
    found: dict[str, TrainableWeight] = {}
    shared: dict[int, TrainableWeight] = {}
    for op in graph:
        if op.kind not in _TRAINED or op.name not in before:
            continue
        layer: Any = op.layer
        twin = shared.get(id(layer.weight))
        if twin is None:
            weight: Any = before[op.name].layer.weight
            twin = shared[id(layer.weight)] = TrainableWeight(layer, weight, most_used(op))
        layer.add_module(TWIN, twin)
        found[op.name] = twin
    return found


def _trainable_values(module: nn.Module) -> dict[str, TrainableValue]:
    """Put a twin in the place of each pair of quantize and dequantize; by the op that quantizes."""
    assert isinstance(module, fx.GraphModule)
    found: dict[str, TrainableValue] = {}
    quantize = [n for n in module.graph.nodes if _is(n, QUANTIZE)]
    for number, node in enumerate(quantize):
        value, scale, zero, least, most, _ = node.args
        readers = list(node.users)
        if not all(_is(reader, DEQUANTIZE) for reader in readers):
            continue
        twin = TrainableValue(float(scale), int(zero), int(least), int(most))
        target = f"rounded_{number}"
        module.add_module(target, twin)
        with module.graph.inserting_after(node):
            made = module.graph.call_module(target, (value,))
        made.meta.update(readers[0].meta)
        for reader in readers:
            reader.replace_all_uses_with(made)
            module.graph.erase_node(reader)
        found[node.meta["ir_op"]] = twin
        module.graph.erase_node(node)
    module.recompile()
    return found


def _is(node: fx.Node, kind: str) -> bool:
    return node.op == "call_function" and str(node.target).startswith(kind)


def _store(
    graph: Graph,
    layers: Mapping[str, TrainableWeight],
    values: Mapping[str, TrainableValue],
    before: dict[str, Held],
) -> None:
    """What was learned becomes integers and scales of the graph, and floats of `before`."""
    memo: dict[int, Any] = {}
    for name, twin in layers.items():
        layer: Any = graph[name].layer
        _store_weight(layer, twin, memo)
        held: Any = copy_layer(before[name].layer, {})
        weight = memo.setdefault(-id(twin), nn.Parameter(twin.weight.detach().clone()))
        held._parameters["weight"] = weight
        if "bias" in layer._parameters:
            held._parameters["bias"] = layer._parameters["bias"]
        before[name] = Held(before[name].kind, held)
    for name, value in values.items():
        scale = float(value.scale.detach())
        for op in (graph[name], *graph.users(name)):
            first, _, *rest = op.args
            graph.set_inputs(op.name, (first, scale, *rest))


def _store_weight(layer: Any, twin: TrainableWeight, memo: dict[int, Any]) -> None:
    if id(twin) not in memo:
        twin.store(layer)
        memo[id(twin)] = layer._buffers["weight"], layer._buffers["scale"]
    layer._buffers["weight"], layer._buffers["scale"] = memo[id(twin)]


def _tell(result: TrainingResult, exam: Teaching, layers: int, ctx: Context) -> None:
    name = exam.metric.title
    before, after = (f"loss {-s[0]:.4f}, {name} {s[1]:.4f}" for s in (result.start, result.best))
    ctx.record("training", asdict(result) | {"metric": exam.metric.name})
    where = f"on {len(exam.samples)} samples held out"
    if result.best_epoch:
        text = f"{layers} rounded layers trained against the teacher: {before} -> {after} {where}"
    else:
        text = f"training rounded layers found nothing better than the start ({before} {where})"
    ctx.note("", f"{text}; peak learning rate {result.rate:.2g}")
