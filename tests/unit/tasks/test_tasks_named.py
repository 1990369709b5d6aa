"""Tasks that are named: found, read, and held against model and data before any work."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.plugins import TASKS, find
from compressc.tasks import NO_LABEL, RowTask, load_task, settle
from compressc.testing import export_graph

OURS = {
    "classification",
    "embedding",
    "language_model",
    "multilabel",
    "regression",
    "segmentation",
    "tokens",
}


def dataset(x, labels=None, test=None):
    part = Split((x,), labels)
    return Dataset("made", part, part, part if test is None else test)


def error_of(call):
    with pytest.raises(CompresscError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


# ---- where they come from ----------------------------------------------------------------------


def test_ours_are_entry_points():
    assert set(find(TASKS)) >= OURS
    for name in OURS:
        assert load_task(name).name == name


def test_an_unknown_name_has_a_hint():
    error = error_of(lambda: load_task("segmentations"))
    assert error.code == "CC107"
    assert "did you mean 'segmentation'?" in error.hint
    assert "file.py:Class" in error.hint


FILE = '''
from compressc.tasks.classification import Classification
from beside import SCALE

class Scaled(Classification):
    """Classification with a scaled loss."""

    name = "scaled"
    scale: float = SCALE

    def row_loss(self, settled, rows, labels):
        return self.scale * super().row_loss(settled, rows, labels)

class Nameless(Classification):
    name = None

other = 3
'''


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("SCALE = 2.0\n")
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_class_of_a_file(file):
    task = load_task(f"{file}:Scaled(scale=3)")
    assert isinstance(task, RowTask)
    assert (task.name, task.text) == ("scaled", "scaled(scale=3.0)")
    assert load_task(f"{file}:Scaled").scale == 2.0  # from the module beside it


def test_what_a_result_depends_on_holds_the_file_and_those_beside_it(file):
    first = load_task(f"{file}:Scaled")
    assert load_task(f"{file}:Scaled").cache_key() == first.cache_key()
    assert load_task(f"{file}:Scaled(scale=3)").cache_key() != first.cache_key()
    (file.parent / "beside.py").write_text("SCALE = 2.0  # edited\n")
    assert load_task(f"{file}:Scaled").cache_key() != first.cache_key()


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("{file}:Scale", "CC106", "did you mean 'Scaled'?"),
        ("{file}:other", "CC106", "has a class 'other'"),
        ("{file}:Nameless", "CC106", "the task has a name"),
        ("{file}:Scaled(scales=3)", "CC102", "did you mean 'scale'?"),
        ("{file}", "CC100", "file.py:Class"),
        ("{file}x.py:Scaled", "CC106", "no such file"),
    ],
)
def test_what_is_no_task_is_one_coded_line(file, text, code, words):
    error = error_of(lambda: load_task(text.format(file=file)))
    assert error.code == code
    assert words in str(error)


def test_a_file_that_fails_is_named(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0")
    error = error_of(lambda: load_task(f"{tmp_path / 'bad.py'}:Mine"))
    assert error.code == "CC106"
    assert "ZeroDivisionError" in error.got


# ---- what they take ----------------------------------------------------------------------------


def graph_of(net, x):
    return export_graph(net.eval(), x[:4])


X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(64, 3, 4, 5, generator=torch.Generator().manual_seed(1))
TEXTS = torch.randn(64, 7, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("net", "x", "target", "name"),
    [
        (nn.Linear(8, 6), X, lambda y: y.argmax(1), "classification"),
        (nn.Linear(8, 6), TEXTS, lambda y: y.argmax(2), "tokens"),
        (nn.Conv2d(3, 6, 1), IMAGES, lambda y: y.argmax(1), "segmentation"),
        (nn.Linear(8, 6), X, lambda y: (y > 0).float(), "multilabel"),
        (nn.Linear(8, 6), X, lambda y: y * 2, "regression"),
        (nn.Linear(8, 1), X, lambda y: (y > 0).long(), "multilabel"),
    ],
)
def test_each_is_inferred_from_targets_and_may_be_named(net, x, target, name):
    torch.manual_seed(0)
    data, graph = dataset(x, target(net(x)).detach()), graph_of(net, x)
    inferred = settle(graph, data)
    assert (inferred.task.name, inferred.named, inferred.labels) == (name, False, True)
    named = settle(graph, data, task=load_task(name))
    assert (named.task.name, named.named, named.labels) == (name, True, True)
    assert named.judged == inferred.judged


@pytest.mark.parametrize(
    ("net", "x", "name"),
    [
        (nn.Linear(8, 6), X, "classification"),
        (nn.Linear(8, 6), TEXTS, "tokens"),
        (nn.Conv2d(3, 6, 1), IMAGES, "segmentation"),
    ],
)
def test_without_labels_the_shape_tells(net, x, name):
    assert settle(graph_of(net, x), dataset(x)).task.name == name
    assert settle(graph_of(net, x)).task.name == name


def test_zeros_and_ones_may_be_named_numbers():
    net, x = nn.Linear(8, 8), torch.sign(X)
    net.weight.data, net.bias.data = torch.eye(8) * 0.4, torch.full((8,), 0.5)
    bits, graph = (x > 0).float(), graph_of(net, x)  # it puts out 0.1 and 0.9
    assert settle(graph, dataset(x, bits)).kind == "independent_scores"
    settled = settle(graph, dataset(x, bits), task=load_task("regression"))
    assert (settled.kind, settled.judged.learned) == ("values", "values")
    (rows,), labels = settled.split([net(x).detach()], bits)
    assert settled.supervised_loss(rows, labels) == pytest.approx(0.01)


def test_a_bare_output_may_be_named_an_embedding_and_its_labels_are_left():
    settled = settle(
        graph_of(nn.Linear(8, 6), X), dataset(X, torch.arange(64) % 6), task=load_task("embedding")
    )
    assert (settled.kind, settled.judged.learned, settled.labels) == ("embedding",) * 2 + (False,)
    assert "the labels are not used" in settled.warnings[-1]


CLASSES, PIXELS = torch.arange(64) % 6, torch.zeros(64, 4, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "net", "x", "labels"),
    [
        ("classification", nn.Linear(8, 6), X, torch.randn(64, 6)),
        ("classification", nn.Conv2d(3, 6, 1), IMAGES, PIXELS),
        ("tokens", nn.Linear(8, 6), X, CLASSES),
        ("tokens", nn.Linear(8, 6), TEXTS, CLASSES),
        ("segmentation", nn.Conv2d(3, 6, 1), IMAGES, CLASSES),
        ("segmentation", nn.Conv2d(3, 6, 1), IMAGES, torch.randn(64, 6, 4, 5)),
        ("multilabel", nn.Linear(8, 6), X, CLASSES),
        ("multilabel", nn.Linear(8, 6), X, torch.randn(64, 5)),
        ("multilabel", nn.Linear(8, 6), X, (X[:, :6] > 0) * 3.0),
        ("regression", nn.Linear(8, 6), X, torch.randn(64, 5)),
        ("regression", nn.Linear(8, 6), X, CLASSES),
        ("language_model", nn.Linear(8, 6), X, CLASSES),
        ("embedding", nn.Sequential(nn.Linear(8, 6), nn.Softmax(1)), X, None),
        ("regression", nn.Sequential(nn.Linear(8, 6), nn.Softmax(1)), X, None),
    ],
)
def test_what_does_not_fit_is_one_coded_line(name, net, x, labels):
    error = error_of(lambda: settle(graph_of(net, x), dataset(x, labels), task=load_task(name)))
    assert error.code == "CC301"
    assert f"task '{name}'" in error.wanted


def test_one_hot_rows_are_legal_answers_of_yes_and_no_where_that_is_named():
    torch.manual_seed(0)
    net = nn.Linear(8, 6)
    one_hot = F.one_hot(net(X).argmax(1), 6)
    assert (
        "given by their index"
        in error_of(lambda: settle(graph_of(net, X), dataset(X, one_hot))).wanted
    )
    settled = settle(graph_of(net, X), dataset(X, one_hot), task=load_task("multilabel"))
    assert settled.kind == "independent_scores"


def test_a_tree_of_labels_needs_a_task_of_one_s_own():
    part = Split((X,), {"boxes": torch.zeros(64, 4), "classes": CLASSES})
    error = error_of(lambda: settle(graph_of(nn.Linear(8, 6), X), Dataset("m", part, part, part)))
    assert error.code == "CC301"
    assert error.got == "a dict of boxes, classes"
    assert "--task" in error.hint


def test_a_loss_of_one_s_own_is_used(file):
    torch.manual_seed(0)
    net = nn.Linear(8, 6)
    data, graph = dataset(X, net(X).argmax(1)), graph_of(net, X)
    plain, scaled = settle(graph, data), settle(graph, data, task=load_task(f"{file}:Scaled"))
    value, labels = net(X).detach(), net(X).argmax(1)
    assert scaled.loss([value], labels) == pytest.approx(2 * float(plain.loss([value], labels)))
    assert (plain.cross_entropy, scaled.cross_entropy) == (True, False)


# ---- texts -------------------------------------------------------------------------------------


class Bigrams(nn.Module):
    """Scores the next token by a table of its own."""

    def __init__(self, table):
        super().__init__()
        self.words = nn.Embedding.from_pretrained(torch.eye(7) * 5)
        self.next = nn.Linear(7, table.shape[1], bias=False)
        self.next.weight.data = table.float().T.contiguous()

    def forward(self, input_ids):
        return self.next(self.words(input_ids))


def texts(count=64, length=9, tokens=7):
    """Each token is followed by the next number, but for every tenth."""
    generator = torch.Generator().manual_seed(3)
    steps = 1 + (torch.rand(count, length, generator=generator) < 0.1).long()
    return steps.cumsum(1) % tokens


IDS = texts()
NEXT = F.pad(IDS[:, 1:], (0, 1), value=NO_LABEL)
KNOWS = torch.eye(7).roll(1, 1)  # token i is followed by i + 1


def test_a_model_that_knows_the_next_token_is_a_language_model():
    settled = settle(graph_of(Bigrams(KNOWS), IDS), dataset(IDS))
    assert (settled.task.name, settled.labels, settled.shifted) == ("language_model", True, False)
    assert "next tokens" in settled.reason
    assert torch.equal(settled.targets((IDS,), None), NEXT)


@pytest.mark.parametrize("table", [torch.eye(7), torch.eye(7).roll(3, 1), torch.zeros(7, 7)])
def test_one_that_does_not_is_none_unless_it_is_named(table):
    """One that repeats its input, one that foretells something else, one that knows nothing."""
    graph = graph_of(Bigrams(table), IDS)
    assert settle(graph, dataset(IDS)).task.name == "tokens"
    named = settle(graph, dataset(IDS), task=load_task("language_model"))
    assert (named.task.name, named.labels) == ("language_model", True)
    assert "not known to the teacher" in named.warnings[0]


def test_one_that_repeats_is_none_even_where_the_text_repeats_itself():
    """It would be right on most next tokens, and it is right on all that it was given."""
    runs = (torch.arange(64 * 9) // 4 % 7).view(64, 9)
    assert settle(graph_of(Bigrams(torch.eye(7)), runs), dataset(runs)).task.name == "tokens"


@pytest.mark.parametrize(("labels", "shifted"), [(IDS, True), (NEXT, False)])
def test_labels_that_are_the_ids_or_the_next_ones(labels, shifted):
    settled = settle(graph_of(Bigrams(KNOWS), IDS), dataset(IDS, labels))
    assert (settled.task.name, settled.shifted) == ("language_model", shifted)
    assert torch.equal(settled.targets((IDS,), labels), NEXT)


def test_what_the_mask_leaves_out_is_not_learned():
    class Masked(Bigrams):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids) * attention_mask.unsqueeze(-1)

    mask = torch.ones_like(IDS)
    mask[:, 5:] = 0
    part = Split((IDS, mask))
    graph = export_graph(Masked(KNOWS).eval(), IDS[:4], mask[:4])
    settled = settle(graph, Dataset("made", part, part, part))
    targets = settled.targets((IDS, mask), None)
    assert torch.equal(targets[:, :4], IDS[:, 1:5])
    assert bool((targets[:, 4:] == NO_LABEL).all())


def test_tags_of_tokens_are_no_language():
    tags = (IDS * 3) % 5
    table = F.one_hot((torch.arange(7) * 3) % 5, 7)
    settled = settle(graph_of(Bigrams(table), IDS), dataset(IDS, tags))
    assert settled.task.name == "tokens"


def test_scores_of_other_than_the_ids_are_no_language_model():
    few = graph_of(Bigrams(torch.eye(7)[:, :3]), IDS)
    error = error_of(lambda: settle(few, dataset(IDS), task=load_task("language_model")))
    assert error.code == "CC301"
    assert error.got == "no scores [n, s, c] of these ids"
