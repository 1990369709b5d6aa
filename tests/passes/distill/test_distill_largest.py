"""Distilled from the largest answers of a teacher alone."""

import json

import pytest
import torch
from compressc_distill.answering import in_words
from compressc_distill.objectives import kd
from torch import nn

import compressc
from compressc.asking import ask_teacher
from compressc.data import Dataset, Split
from compressc.distillation import Readings, Seen, Shortened
from compressc.errors import CompresscError
from compressc.kernels import TopK
from compressc.session import open_session
from compressc.tasks import Response

CLASSES = 40


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, CLASSES)).eval()


@pytest.fixture
def data(net):
    draw = torch.Generator().manual_seed(1)
    parts = [torch.randn(n, 6, generator=draw) for n in (800, 50, 200)]
    return Dataset("rows", *(Split((x,), net(x).argmax(1)) for x in parts))


def compressed(net, data, options):
    features = "" if "loss" in options else "features=0,"
    passes = f"prune(ratio=0.3),distill(epochs=4,{features}{options})"
    return compressc.compile(net, passes, data=data, cache=None)


def agreement(compiled):
    return compiled.report.passes[-1].scores["agreement"]


@pytest.fixture
def teachers_seen(monkeypatch):
    """The kinds of the teachers that the kernel is given."""
    found, kernel = set(), kd.softmax_kl

    def watched(student, teacher, *rest, **options):
        found.add(type(teacher))
        return kernel(student, teacher, *rest, **options)

    monkeypatch.setattr(kd, "softmax_kl", watched)
    return found


def test_few_answers_teach_nearly_as_well(net, data, teachers_seen):
    full = compressed(net, data, "alpha=0")
    assert teachers_seen == {torch.Tensor}
    teachers_seen.clear()
    short = compressed(net, data, "alpha=0,answers_top=8,temperature=4")
    assert teachers_seen == {TopK}
    assert agreement(full) - agreement(short) < 0.05
    assert agreement(short) > agreement(compressed(net, data, "alpha=0,steps=1,batch_size=16"))
    texts = [text for _, text in short.passes[-1].notes]
    wanted = "the 8 largest answers of the teacher, and one for all others, at temperature 4; all"
    (text,) = [text for text in texts if text.startswith(wanted)]
    assert text.endswith("a lower temperature, or more answers, teach more")  # 32 of 40, at T=4


def test_how_much_all_others_have_is_told():
    logits = torch.tensor([[4.0, 2.0, 0.0, 0.0]])
    short = Shortened(1, 1.0)
    largest = short.of(logits, Response(0, "out", "class_scores", 1, "", "class_scores", 1))
    for count, ending in ((8, "all others have 15% of a sample"), (0, "at temperature 1")):
        rows = largest.rows([part.expand(count, -1) for part in largest.parts()])
        seen = Seen(Readings(logits), Readings(logits[:0], largest=rows))
        assert in_words(short, seen).endswith(ending)


def test_labels_stand_beside_them(net, data):
    history = compressed(net, data, "alpha=0.5,answers_top=8").passes[-1].records["training"]
    terms = history["history"][-1]["terms"]
    assert set(terms) == {"ce", "kd"}
    assert 0 < terms["ce"] < history["history"][0]["terms"]["ce"]


@pytest.mark.parametrize("how", ["memory", "beside"])
def test_the_same_bytes_however_they_are_kept(net, data, how):
    graphs = [compressed(net, data, f"answers_top=8,answers={x}").graph for x in (how, "auto")]
    a, b = (graph.tensors() for graph in graphs)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("objective=dkd", "'dkd' needs all of the teacher's answers (got the 8 largest)"),
        ("loss='kd(T=1)+mse_logits'", "'mse_logits' needs all of the teacher's answers"),
        ("loss='kd(T=1)+kd(T=2)'", "at the temperature of the other terms (got 1 and 2)"),
    ],
)
def test_an_objective_that_needs_all_answers_says_so(net, data, options, wanted):
    with pytest.raises(CompresscError, match="CC301") as caught:
        compressed(net, data, f"answers_top=8,{options}")
    assert wanted in str(caught.value)


def test_as_many_as_there_are_classes_is_refused(net, data):
    with pytest.raises(CompresscError, match="CC301") as caught:
        compressed(net, data, f"answers_top={CLASSES}")
    assert caught.value.got == f"{CLASSES} classes"


# ---- written ahead -----------------------------------------------------------------------------


def ask(net, data, folder, **options):
    return ask_teacher(open_session(net, data=data), folder, **options)


def test_they_can_be_written_ahead(net, data, tmp_path):
    found = ask(net, data, tmp_path / "a", top=8, temperature=4.0)
    about = json.loads((tmp_path / "a/answers.json").read_text())
    assert about["largest"] == {"count": 8, "temperature": 4.0, "classes": CLASSES}
    forms = [f"{value['dtype']}{value['shape']}" for value in about["values"]]
    assert forms == ["float32[8]", "int16[8]", "float32[1]"]
    assert [text.split("(")[1].split(")")[0] for text in found.values] == [
        "largest",
        "classes",
        "others",
    ]
    assert found.bytes == 800 * (1 + 8 * 4 + 8 * 2 + 4)
    given, asked = (
        compressed(net, data, f"{more}temperature=4").graph.tensors()
        for more in (f"answers_from='{tmp_path / 'a'}',", "answers_top=8,")
    )
    assert all(torch.equal(given[name], asked[name]) for name in given)


@pytest.mark.parametrize(
    ("written", "options", "wanted", "got"),
    [
        ({"top": 8}, "temperature=4", "those at temperature 4", "1"),
        ({"top": 8}, "answers_top=9,temperature=1", "the 9 largest answers are there", "8"),
        ({}, "answers_top=9", "the 9 largest answers are there", "all of them"),
    ],
)
def test_a_folder_that_holds_others_is_refused(net, data, tmp_path, written, options, wanted, got):
    ask(net, data, tmp_path, **written)
    with pytest.raises(CompresscError, match="CC303") as caught:
        compressed(net, data, f"answers_from='{tmp_path}',{options}")
    assert wanted in caught.value.wanted
    assert caught.value.got == got


def test_a_description_that_was_changed_is_refused(net, data, tmp_path):
    """The key tells: at another temperature the others have another mass."""
    ask(net, data, tmp_path, top=8)
    about = json.loads((tmp_path / "answers.json").read_text())
    about["largest"]["temperature"] = 4.0
    (tmp_path / "answers.json").write_text(json.dumps(about))
    with pytest.raises(CompresscError, match="CC303") as caught:
        compressed(net, data, f"answers_from='{tmp_path}',temperature=4")
    assert caught.value.got == "another key"
