"""The pass `quant`: what it makes of a graph, how good that is, and what it refuses."""

import re
from pathlib import Path

import pytest
import torch
from compressc_quant import Quant
from compressc_quant.bias import channel_means, correct_biases
from compressc_quant.carry import carry_over
from compressc_quant.distance import distance_text
from compressc_quant.observing import Settings, observe
from compressc_quant.tracing import trace
from pydantic import ValidationError
from quant_nets import Levels, Places, Tied, Words, imported, random_data
from torch import nn

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import graph_hash, load_bundle, lower, parse_graph, save_bundle, verify
from compressc.pipeline import Context, Pipeline
from compressc.target import Target
from compressc.testing import export_graph

SNAPSHOT = Path(__file__).parent / "residual.ir"


def masked(text):
    """Scales and zero points depend on the training; what is quantized does not."""
    text = re.sub(r"per_tensor\((%[\w.]+), [\d.e-]+, \d+", r"per_tensor(\1, SCALE, ZERO", text)
    return re.sub(r" +#", "  #", text)


def logits(graph, split):
    with torch.no_grad():
        return lower(graph)(*split.inputs)


def test_the_graph_reads_like_this(quantized):
    assert masked(str(quantized)) == SNAPSHOT.read_text(encoding="utf-8")


def test_it_is_a_graph_like_any_other(quantized, teacher, tmp_path):
    verify(quantized, like=teacher)
    text = str(quantized)
    assert str(parse_graph(text, quantized.tensors())) == text
    save_bundle(quantized, tmp_path)
    assert graph_hash(load_bundle(tmp_path)) == graph_hash(quantized)


def test_names_and_lineage_survive(quantized, teacher):
    for op in teacher:
        assert quantized[op.name].lineage == op.lineage
    assert quantized["a.q"].lineage == teacher["a"].lineage


def test_accuracy_stays(quantized, teacher, digits):
    before, after = logits(teacher, digits.test), logits(quantized, digits.test)
    labels = digits.test.labels
    accuracy = [(x.argmax(1) == labels).float().mean().item() for x in (before, after)]
    assert accuracy[0] > 0.9
    assert accuracy[1] > accuracy[0] - 0.01
    assert torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), 0) > 0.998
    assert not torch.equal(before, after)


def test_the_weights_are_int8_rounded_to_the_nearest(quantized, teacher):
    layers = [
        op.name
        for op in quantized
        if op.kind.startswith("quantized_") and not op.kind.startswith("quantized_decomposed")
    ]
    assert layers == ["stem", "a", "b", "head"]
    for name in layers:
        new = quantized[name].layer
        assert new.weight.dtype is torch.int8
        assert new.scale.shape == (len(new.weight),)
        scale = new.scale.reshape([-1, *[1] * (new.weight.dim() - 1)])
        error = (new.weight * scale - teacher[name].layer.weight).abs()
        assert (error <= scale * 0.501).all(), name


def test_it_computes_what_nncfs_own_module_computes(teacher, digits):
    batches = [tuple(x[i : i + 32] for x in digits.calibration.inputs) for i in (0, 32, 64)]
    traced = trace(teacher, batches[0])
    settings = Settings(symmetric=False, transformer=False, smooth=True)
    theirs = observe(traced.module, batches, settings)
    ours = teacher.copy()
    carry_over(ours, traced, theirs)
    with torch.no_grad():
        assert torch.equal(lower(ours)(*batches[1]), theirs(*batches[1]))


def test_attention_is_as_good_as_nncfs_own(digits):
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = layer, nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.layer(x)[:, 0])

    torch.manual_seed(1)
    x = torch.randn(64, 5, 16)
    graph = imported(Net().eval(), (x[:4],))
    traced = trace(graph, (x[:32],))
    settings = Settings(symmetric=False, transformer=True, smooth=True)
    theirs = observe(traced.module, [(x[:32],), (x[32:],)], settings)
    ours = graph.copy()
    carry_over(ours, traced, theirs)
    verify(ours, like=graph)
    with torch.no_grad():
        assert torch.allclose(lower(ours)(x[:32]), theirs(x[:32]), atol=2e-3)
        assert lower(ours)(x[:7]).shape == (7, 4)


def test_floats_that_stay_are_reported(run):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(self.norm(self.a(x)))

    x = torch.randn(64, 8)
    graph, context = run(imported(Net().eval(), (x[:4],)), random_data(x))
    assert graph["a"].kind == graph["b"].kind == "quantized_linear"
    *_, note = context.notes  # those before are of the ranges
    assert len(context.notes) == 3
    assert note[0] == "norm"
    assert note[1].startswith("skipped: it has no int8 kernel")


def test_where_nothing_can_be_quantized_nothing_happens(run):
    x = torch.randn(64, 8)
    graph = imported(nn.Sequential(nn.LayerNorm(8), nn.GELU()).eval(), (x[:4],))
    after, context = run(graph, random_data(x))
    assert str(after) == str(graph)
    assert len(context.notes) == 3


def test_tied_weights_stay_tied(run):
    torch.manual_seed(0)
    x = torch.rand(64, 64)
    graph, _ = run(imported(Tied().eval(), (x[:4],)), random_data(x))
    first, second = graph["first"].layer, graph["second"].layer
    assert first.weight is second.weight
    assert first.weight.dtype is torch.int8
    assert str(graph).count("@first.weight") == 2


@pytest.mark.parametrize("options", [{}, {"bits": 4}])
def test_a_table_that_the_head_shares_takes_its_integers(run, options):
    torch.manual_seed(0)
    ids = torch.randint(0, 100, (64, 6))
    teacher = imported(Words().eval(), (ids[:4],))
    graph, _ = run(teacher, random_data(ids), **options)
    table, head = graph["table"].layer, graph["head"].layer
    assert table.weight is head.weight
    assert table.scale is head.scale
    whole, rounded = (sum(t.nbytes for t in g.tensors().values()) for g in (teacher, graph))
    assert rounded < 0.35 * whole
    want, got = (lower(g)(ids) for g in (teacher, graph))
    assert torch.nn.functional.cosine_similarity(want, got, dim=-1).mean() > 0.98


def test_a_projection_of_constants_takes_the_integers_of_that_of_values(run):
    torch.manual_seed(0)
    x = torch.randn(64, 32)
    teacher = imported(Places().eval(), (x[:4],))
    graph, _ = run(teacher, random_data(x))
    of_values, of_places = (graph[name] for name in ("key", "key_1"))
    assert of_values.int8
    assert of_places.layer.weight is of_values.layer.weight
    assert not any(graph[name].kind.endswith("dequantize_per_tensor") for name in of_places.inputs)
    want, got = (lower(g)(x) for g in (teacher, graph))
    assert torch.nn.functional.cosine_similarity(want, got, dim=-1).mean() > 0.99


def test_a_table_of_its_own_is_left_to_the_rules(run):
    ids = torch.randint(0, 100, (64, 6))
    graph, context = run(imported(Words(shared=False).eval(), (ids[:4],)), random_data(ids))
    assert graph["table"].kind == "embedding"
    assert any(name == "table" and "rules" in text for name, text in context.notes)


def test_a_convolution_with_two_norms_stays_one(run):
    torch.manual_seed(0)
    x, net = torch.randn(64, 1, 8, 8), Levels().train()
    net(x), net(3 * x)
    graph, context = run(imported(net.eval(), (x[:4],)), random_data(x))
    first, second = graph["shared"].layer, graph["shared_1"].layer
    assert first.weight.dtype is torch.int8
    assert first.weight is second.weight
    assert first.scale is second.scale
    read = {name for op in graph for name in op.inputs} | set(graph.output_names)
    assert {op.name for op in graph} <= read  # nothing is left that nobody reads
    assert "norms.0" in dict(context.notes)
    with torch.no_grad():
        want, got = net(x), lower(graph)(x)
    assert (got - want).norm() < 0.05 * want.norm()


def test_what_is_lost_is_said_at_once(teacher, run):
    _, context = run(teacher, samples=32)
    (figure,) = re.findall(r"outputs off by ([\d.]+)%", dict(context.notes)[""])
    assert 0 < float(figure) < 10
    assert "little left" not in dict(context.notes)[""]
    assert "little left" in distance_text([torch.randn(4, 50)], [torch.ones(4, 50)])


def test_the_teacher_is_not_touched(teacher, run):
    before = graph_hash(teacher)
    run(teacher, samples=32)
    assert graph_hash(teacher) == before


def test_same_data_same_bytes(quantized, teacher, run):
    assert graph_hash(run(teacher)[0]) == graph_hash(quantized)


def test_options_do_what_they_say(teacher, run, digits):
    symmetric, _ = run(teacher, preset="performance", bias_correction=False)
    for op in symmetric:
        if op.kind == "quantized_decomposed.quantize_per_tensor":
            assert op.args[2] == 0  # no zero point
    bias = symmetric["stem"].layer.bias
    assert torch.equal(bias, teacher["stem"].layer.bias)
    few, _ = run(teacher, samples=3)  # fewer than a batch
    assert few["stem"].kind == "quantized_conv2d"


def test_bias_correction_takes_the_mean_error_out(teacher, quantized, run, digits):
    plain, _ = run(teacher, bias_correction=False)
    inputs = digits.calibration.take(256).inputs
    with torch.no_grad():
        want, *got = (lower(graph)(*inputs) for graph in (teacher, quantized, plain))
    corrected, uncorrected = ((values - want).mean(0).abs().mean() for values in got)
    assert corrected < 0.3 * uncorrected


def test_biases_are_corrected_one_batch_after_the_other(run):
    """Where nothing bends, the mean of each batch's errors is the error of all."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).eval()
    batches = [(torch.randn(32, 8) + shift,) for shift in (0.0, 2.0, 5.0)]
    graph = imported(net, batches[0])
    rounded, _ = run(graph, random_data(batches[0][0]), mode="weights", bits=4)
    graphs = {"want": graph, "before": rounded.copy()}
    assert correct_biases(rounded, channel_means(graph, batches), batches) == ["0", "1"]
    every = torch.cat([x for (x,) in batches])
    with torch.no_grad():
        means = {name: lower(g)(every).mean(0) for name, g in graphs.items()}
        found = lower(rounded)(every).mean(0)
    assert not torch.allclose(means["before"], means["want"], atol=1e-2)
    assert torch.allclose(found, means["want"], atol=1e-5)


def test_smoothing_saves_what_outlier_channels_cost(run):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    with torch.no_grad():  # the norms scale two channels far above the others
        for norm in (layer.norm1, layer.norm2):
            norm.weight[:2] = 60.0
    x = torch.randn(64, 5, 16)
    graph = imported(layer.eval(), (x[:4],))
    with torch.no_grad():
        want = layer(x)
        errors = [
            (lower(run(graph, random_data(x), smooth=smooth)[0])(x) - want).norm()
            for smooth in (False, True)
        ]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("range_", "processor", "largest"),
    [
        *(("half", "avx512_vnni", 64), ("full", "avx2", 127)),
        *(("auto", "avx2", 64), ("auto", "avx512", 64), ("auto", "avx512_vnni", 127)),
        ("auto", "neon", 127),
    ],
)
def test_range_of_the_weights(range_, processor, largest, teacher, digits):
    target = Target(instruction_set=processor)
    context = Context(teacher=teacher, data=digits, target=target)
    graph = teacher.copy()
    Quant(range=range_, samples=32).run(graph, context)
    weights = [op.layer.weight for op in graph if op.kind.startswith("quantized_conv")]
    assert {int(weight.int().abs().max()) for weight in weights} == {largest}
    assert ("half range" in dict(context.notes)[""]) == (largest == 64)


def test_only_as_many_samples_as_asked_for_are_observed(teacher, digits, run):
    """Behind the first 64 samples lie ones a thousand times as large."""
    x = digits.calibration.inputs[0]
    data = random_data(torch.cat([x[:64], 1000 * x[:64]]))

    def largest_input(graph):
        (op,) = (op for op in graph if op.name == "x.q")
        return op.args[1] * (255 - op.args[2])

    few, _ = run(teacher, data, samples=64)
    more, _ = run(teacher, data, samples=128)
    assert largest_input(few) <= 1.01 * x[:64].max()
    assert largest_input(more) > 100 * x[:64].max()


@pytest.mark.parametrize(
    "options", [{"bits": 3}, {"samples": 0}, {"batch": 0}, {"preset": "fast"}, {"bit": 8}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValidationError):
        Quant(**options)


def test_it_needs_data(teacher):
    with pytest.raises(CompresscError, match="CC105"):
        Quant().run(teacher.copy(), Context(teacher=teacher))


def test_it_declares_its_order_and_documents_its_options():
    assert set(Quant.after) >= {"prune", "lowrank", "distill"}
    assert Quant.prelude == ("simplify",)
    assert all(field.description for field in Quant.model_fields.values())


def test_a_model_in_other_floats_is_refused_before_any_work():
    graph = export_graph(nn.Linear(4, 4).bfloat16(), torch.zeros(3, 4, dtype=torch.bfloat16))
    part = Split((torch.zeros(8, 4, dtype=torch.bfloat16),))
    with pytest.raises(CompresscError, match="'quant' needs a model in float32") as caught:
        Pipeline([Quant()], Dataset("zeros", part, part, part)).run(graph)
    assert (caught.value.code, caught.value.got) == ("CC105", "bfloat16")


@pytest.mark.parametrize(("most", "times"), [(1, 4), (1 << 40, 1)])
def test_what_nncf_leaves_goes_while_it_works(teacher, run, monkeypatch, most, times):
    """The floats of a weight that became integers: at each of four, or at the end alone."""
    looked = []
    monkeypatch.setattr("compressc_quant.sparing.give_back", lambda: looked.append(1))
    monkeypatch.setattr("compressc_quant.sparing._GARBAGE", most)
    run(teacher, samples=4)
    assert len(looked) >= times
    assert most == 1 or len(looked) == 2  # before the first, and behind the last
