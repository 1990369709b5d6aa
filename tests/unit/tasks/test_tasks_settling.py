"""Which output is judged, what is learned of it, and what labels mean."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Ref
from compressc.tasks import NO_LABEL, find_responses, settle
from compressc.testing import export_graph


class Ends(nn.Module):
    """One linear layer of width 6, and what comes after it."""

    def __init__(self, end, out=6, wide=8):
        super().__init__()
        self.layer, self.end = nn.Linear(wide, out), end

    def forward(self, x):
        return self.end(self.layer(x))


def graph_of(end, out=6, x=None):
    x = torch.randn(4, 8) if x is None else x
    return export_graph(Ends(end, out, x.shape[-1]).eval(), x)


def dataset(inputs, labels=None):
    part = Split(inputs if isinstance(inputs, tuple) else (inputs,), labels)
    return Dataset("made", part, part, part)


@pytest.mark.parametrize(
    ("end", "ending", "kind", "learned"),
    [
        (lambda z: z, "", "class_scores", "class_scores"),
        (lambda z: z.softmax(-1), "softmax", "class_scores", "class_scores"),
        (lambda z: F.log_softmax(z, 1), "log_softmax", "class_scores", "class_scores"),
        (lambda z: z.softmax(1).clamp_min(1e-6).log(), "softmax", "class_scores", "class_scores"),
        (torch.sigmoid, "sigmoid", "independent_scores", "independent_scores"),
        (F.normalize, "normalize", "embedding", "embedding"),
        (lambda z: z / z.norm(dim=1, keepdim=True), "normalize", "embedding", "embedding"),
        (
            lambda z: z * torch.rsqrt(z.square().sum(-1, keepdim=True) + 1e-6),
            "normalize",
            "embedding",
            "embedding",
        ),
        (lambda z: z.argmax(-1), "argmax", "ids", "class_scores"),
        (lambda z: z.max(1)[1], "argmax", "ids", "class_scores"),
        (lambda z: z.softmax(1).argmax(1), "argmax", "ids", "class_scores"),
        (lambda z: z.sigmoid() > 0.5, "threshold", "ids", "independent_scores"),
    ],
)
def test_the_value_before_the_ending_is_learned(end, ending, kind, learned):
    graph = graph_of(end)
    task = settle(graph)
    assert (task.judged.ending, task.kind, task.judged.learned) == (ending, kind, learned)
    assert task.value_in(graph) == "layer"


@pytest.mark.parametrize(
    "end",
    [
        lambda z: z / z.sum(1, keepdim=True),  # shares, not directions
        lambda z: z / z.amax(1, keepdim=True),
        lambda z: z / (z.norm() + 1),  # one norm of the whole batch
    ],
)
def test_a_division_by_something_else_is_no_norm(end):
    assert find_responses(graph_of(end))[0].ending == ""


@pytest.mark.parametrize(
    ("end", "out"), [(lambda z: z, 1), (lambda z: z.squeeze(-1), 1), (lambda z: z.sum(1), 6)]
)
def test_one_number_for_each_sample_is_a_value(end, out):
    task = settle(graph_of(end, out))
    assert (task.kind, task.judged.dim) == ("values", None)


def test_one_number_for_each_position_is_no_row_of_classes():
    positions = graph_of(lambda z: z.squeeze(-1), 1, torch.randn(4, 5, 8))  # f32[b,5]
    task = settle(positions)
    assert (task.kind, task.judged.dim) == ("values", None)


def test_what_comes_out_of_a_norm_or_an_activation_is_no_class_score():
    norm = nn.LayerNorm(6)
    assert settle(graph_of(norm)).kind == "embedding"
    assert settle(graph_of(torch.tanh)).kind == "embedding"


def test_pooled_and_resized_convolutions_are_class_scores():
    x = torch.randn(2, 3, 8, 8)
    squeeze = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert settle(export_graph(squeeze.eval(), x)).kind == "class_scores"
    segment = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Upsample(scale_factor=2)).eval()
    task = settle(export_graph(segment, x))
    assert (task.kind, task.judged.dim) == ("class_scores", 1)
    image = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)).eval()
    assert settle(export_graph(image, x)).kind == "values"


def test_what_has_the_shape_of_an_input_is_values_unless_labels_say_otherwise():
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    net = Ends(lambda z: z, out=8).eval()
    graph = export_graph(net, x[:4])
    assert settle(graph, dataset(x)).kind == "values"
    assert settle(graph, dataset(x, net(x).argmax(1))).kind == "class_scores"
    ids = torch.randint(0, 8, (4, 6))  # integers are not put out again
    words = export_graph(nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 6)).eval(), ids)
    assert settle(words).kind == "class_scores"


class Two(nn.Module):
    """A box of four numbers first, then three class scores; or the other names for them."""

    def __init__(self, keys=None):
        super().__init__()
        self.box, self.cls, self.keys = nn.Linear(8, 4), nn.Linear(8, 3), keys

    def forward(self, x):
        out = self.box(x), self.cls(x)
        return dict(zip(self.keys, out, strict=True)) if self.keys else out


def test_the_output_that_knows_the_labels_is_judged():
    torch.manual_seed(0)
    net, x = Two().eval(), torch.randn(200, 8)
    graph, labels = export_graph(net, x[:4]), net.cls(x).argmax(1)
    task = settle(graph, dataset(x, labels))
    assert (task.output, task.index, task.labels, task.per_position) == ("cls", 1, True, False)
    assert "100.0 %" in task.reason
    assert [r.name for r in task.others] == ["box"]


def test_several_outputs_without_labels_are_named():
    x = torch.randn(40, 8)
    task = settle(export_graph(Two().eval(), x[:4]), dataset(x))
    assert task.output == "box"
    assert "'cls'" in task.warnings[0]
    graph = export_graph(Two(("loc", "logits")).eval(), x[:4])
    assert (settle(graph).output, settle(graph).warnings) == ("logits", ())
    assert settle(graph, output="loc").output == "loc"
    with pytest.raises(CompresscError, match="loc, logits") as error:
        settle(graph, output="logit")
    assert "did you mean 'logits'" in error.value.hint


def test_what_no_weight_has_a_part_in_is_neither_judged_nor_learned():
    """An input that is handed through would be the first of its kind."""
    graph = graph_of(lambda z: z)
    graph.outputs = {"same": Ref(graph.inputs[0].name), "scores": graph.outputs}
    assert [r.trained for r in find_responses(graph)] == [False, True]
    for data in (None, dataset(torch.randn(40, 8))):
        task = settle(graph, data)
        assert (task.output, task.warnings) == ("scores", ())
        assert [r.name for r in task.others] == ["same"]
        assert [r.name for r in task.learned] == ["scores"]
    assert [r.name for r in settle(graph, output="same").learned] == ["same", "scores"]


def test_labels_per_position_say_where_the_classes_are():
    torch.manual_seed(0)
    x = torch.randn(64, 3, 4, 5)
    net = nn.Conv2d(3, 4, 1).eval()
    task = settle(export_graph(net, x[:4]), dataset(x, net(x).argmax(1)))
    assert (task.judged.dim, task.labels, task.per_position) == (1, True, True)
    tokens = torch.randn(64, 7, 8)
    last = nn.Linear(8, 4).eval()
    task = settle(export_graph(last, tokens[:4]), dataset(tokens, last(tokens).argmax(-1)))
    assert (task.judged.dim, task.per_position) == (2, True)
    sequence = torch.randn(64, 8, 7)
    first = nn.Conv1d(8, 4, 1).eval()
    task = settle(export_graph(first, sequence[:4]), dataset(sequence, first(sequence).argmax(1)))
    assert (task.judged.dim, task.per_position) == (1, True)


def test_zeros_and_ones_for_one_number_are_answers_of_yes_and_no():
    torch.manual_seed(0)
    x = torch.randn(100, 8)
    net = Ends(lambda z: z.squeeze(-1), 1).eval()
    labels = (net(x) > 0).long()
    graph = export_graph(net, x[:4])
    task = settle(graph, dataset(x, labels))
    assert (task.kind, task.judged.threshold, task.labels) == ("independent_scores", 0.0, True)
    inside = export_graph(Ends(lambda z: z.squeeze(-1).sigmoid(), 1).eval(), x[:4])
    assert settle(inside).judged.threshold == 0.5


def test_float_targets_make_an_output_values():
    torch.manual_seed(0)
    x = torch.randn(100, 8)
    net = Ends(lambda z: z, 3).eval()
    targets = (net(x) + 0.1 * torch.randn(100, 3)).detach()
    task = settle(export_graph(net, x[:4]), dataset(x, targets))
    assert (task.kind, task.labels) == ("values", True)
    rows, wanted = task.split([net(x).detach()], targets)
    assert task.supervised_loss(rows[0], wanted) == pytest.approx(0.01, rel=0.2)  # the noise
    other = settle(export_graph(net, x[:4]), dataset(x, torch.randn(100, 3)))
    assert (other.kind, other.labels) == ("class_scores", False)
    assert "R^2 of the teacher -" in other.warnings[0]


def test_several_bits_for_each_sample_are_independent_scores():
    torch.manual_seed(0)
    x = torch.randn(100, 8)
    net = Ends(lambda z: z).eval()
    bits = (net(x) > 0).float()
    task = settle(export_graph(net, x[:4]), dataset(x, bits))
    assert (task.kind, task.labels, task.judged.threshold) == ("independent_scores", True, 0.0)
    inside = settle(export_graph(Ends(torch.sigmoid).eval(), x[:4]), dataset(x, bits))
    assert (inside.kind, inside.judged.threshold) == ("independent_scores", 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_one_hot_labels_are_asked_for_as_indices(dtype):
    x, labels = torch.randn(40, 8), torch.eye(6)[torch.arange(40) % 6].to(dtype)
    with pytest.raises(CompresscError, match="given by their index") as error:
        settle(graph_of(lambda z: z), dataset(x, labels))
    assert "y.argmax(1)" in error.value.hint


def test_classes_as_floats_are_asked_for_as_integers():
    x, labels = torch.randn(40, 8), (torch.arange(40) % 6).float()
    with pytest.raises(CompresscError, match="labels fit an output") as error:
        settle(graph_of(lambda z: z), dataset(x, labels))
    assert "astype('int64')" in error.value.hint


def test_labels_that_the_teacher_does_not_know_are_dropped_and_it_is_said():
    torch.manual_seed(0)
    x, labels = torch.randn(400, 8), torch.randint(0, 6, (400,))
    task = settle(graph_of(lambda z: z), dataset(x, labels))
    assert not task.labels
    assert "not known to the teacher" in task.warnings[0]
    few = dataset(x[:20], labels[:20])  # twenty samples cannot show that
    assert settle(graph_of(lambda z: z), few).labels


def test_samples_are_drawn_from_everywhere_because_labels_may_be_sorted():
    torch.manual_seed(0)
    net, x = Ends(lambda z: z).eval(), torch.randn(12_000, 8)
    labels = net(x).argmax(1)
    order = (labels != labels.mode().values).int().argsort(stable=True)
    x, labels = x[order], labels[order]
    assert len(labels[:1500].unique()) == 1  # on these, one answer is right for all
    assert settle(export_graph(net, x[:4]), dataset(x, labels)).labels


def test_where_few_samples_leave_it_open_more_are_looked_at():
    torch.manual_seed(0)
    net, x = Ends(lambda z: z).eval(), torch.randn(2000, 8)
    known = torch.rand(2000) < 0.08  # 64 samples: about 0.9 standard errors; 1,024: 3.7
    labels = torch.where(known, net(x).argmax(1), torch.randint(0, 6, (2000,)))
    graph = export_graph(net, x[:4])
    assert settle(graph, dataset(x, labels)).labels
    assert not settle(graph, dataset(x[:64], labels[:64])).labels


def test_an_embedding_has_no_classes():
    x, labels = torch.randn(100, 8), torch.randint(0, 3, (100,))
    task = settle(graph_of(F.normalize), dataset(x, labels))
    assert (task.kind, task.labels) == ("embedding", False)
    assert "an embedding has no scores of classes" in task.warnings[-1]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (torch.zeros(40, 5, dtype=torch.long), "labels fit an output"),
        (torch.full((40,), 6), "below the model's 6 classes"),
    ],
)
def test_labels_that_fit_no_output_are_an_error(labels, text):
    with pytest.raises(CompresscError, match=text) as error:
        settle(graph_of(lambda z: z), dataset(torch.randn(40, 8), labels))
    assert error.value.code == "CC301"
    assert "leave the labels out" in error.value.hint


def test_a_label_out_of_range_in_any_part_is_found():
    x, labels = torch.randn(40, 8), torch.arange(40) % 6
    good, bad = Split((x,), labels), Split((x,), labels + 1)
    for parts in ((bad, good, good), (good, bad, good), (good, good, bad)):
        with pytest.raises(CompresscError, match="below the model's 6 classes") as error:
            settle(graph_of(lambda z: z), Dataset("made", *parts))
        assert error.value.got == "6"


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (torch.zeros(8, 2, dtype=torch.int64), "integer [n,2] in test"),
        (torch.rand(8), "float [n] in test"),
        (torch.eye(6)[torch.arange(8) % 6], "float [n,6] in test"),
    ],
)
def test_labels_of_another_kind_in_the_test_part_are_found(labels, got):
    graph, x = graph_of(lambda z: z), torch.randn(8, 8)
    train = Split((x,), torch.arange(8) % 6)
    with pytest.raises(CompresscError, match="CC301") as caught:
        settle(graph, Dataset("made", train, train, Split((x,), labels)))
    assert caught.value.got == got
    column = Split((x,), (torch.arange(8) % 6).unsqueeze(1))  # the same, as a column
    assert settle(graph, Dataset("made", train, train, column)).kind == "class_scores"


def test_a_model_that_fails_on_the_data_is_no_mistake_of_ours():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids):
            return self.out(self.words(ids + 1).mean(1))

    graph = export_graph(Shifted().eval(), torch.randint(0, 8, (4, 5)))
    with pytest.raises(CompresscError, match=r"CC204.*train data.*IndexError"):
        settle(graph, dataset(torch.full((4, 5), 8)))


def test_labels_of_the_test_part_alone_judge():
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    net = Ends(lambda z: z).eval()
    bare, labelled = Split((x,)), Split((x,), net(x).argmax(1))
    task = settle(export_graph(net, x[:4]), Dataset("made", bare, bare, labelled))
    assert task.labels
    assert task.split([net(x)], None)[1] is None


def test_a_model_without_a_row_for_each_sample_cannot_be_judged():
    graph = graph_of(lambda z: z.mean())
    with pytest.raises(CompresscError, match="one row for each sample"):
        settle(graph)


def test_rows_and_labels_line_up():
    torch.manual_seed(0)
    x = torch.randn(64, 3, 2, 2)
    net = nn.Conv2d(3, 4, 1).eval()
    labels = net(x).argmax(1)
    labels[0, 0] = NO_LABEL
    task = settle(export_graph(net, x[:4]), dataset(x, labels))
    value = net(x[:2]).detach()
    (rows,), known = task.split([value], labels[:2])
    assert rows.shape == (6, 4)  # two of the eight pixels have no label
    assert torch.equal(rows[0], value[0, :, 1, 0])
    assert torch.equal(known, labels[:2].flatten()[2:])
    assert torch.equal(rows.argmax(1), known)


def test_losses_by_kind():
    torch.manual_seed(0)
    x = torch.randn(100, 8)
    net = Ends(lambda z: z.squeeze(-1), 1).eval()
    labels = (net(x) > 0).long()
    task = settle(export_graph(net, x[:4]), dataset(x, labels))
    rows, wanted = task.split([torch.tensor([0.0, 2.0])], torch.tensor([1, NO_LABEL]))
    assert task.supervised_loss(rows[0], wanted) == pytest.approx(0.6931, abs=1e-4)  # ln 2
    nobody = torch.tensor([NO_LABEL, NO_LABEL])
    assert task.supervised_loss(rows[0], nobody[:, None]) == 0.0
