"""A teacher of another tokenizer: spans of text by hand, their likelihoods, and a distillation."""

import math
from types import SimpleNamespace

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.language.aligning import spans
from compressc_distill.families.language.alphabets import Alphabet, cuts
from compressc_distill.objectives.alm import Alm
from distill_nets import Start
from language_nets import LENGTH, WORDS, Bigrams, dataset, graph_of, texts
from rows_of import softmax

from compressc.distillation import Loss, Readings, Seen, Spans, parse_loss
from compressc.errors import CompresscError
from compressc.ir import lower, save_bundle
from compressc.pipeline import Context, parse_passes
from compressc.tasks import load_task, settle
from compressc.testing import check_resumes

tokenizers = pytest.importorskip("tokenizers")
SIGNS = "abcdefghijklmnopq"


def word(ids):
    return "".join(SIGNS[i] for i in ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Tokenizers of single signs and of pieces, and a teacher of pieces."""
    place = tmp_path_factory.mktemp("alphabets")
    single = tokenizers.Tokenizer(tokenizers.models.BPE({s: i for i, s in enumerate(SIGNS)}, []))
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=60, initial_alphabet=list(SIGNS), show_progress=False, max_token_length=3
    )
    lines = [word(row) for row in texts(400, 1).tolist()]
    pieces.train_from_iterator(lines, trainer)
    for name, made in (("own", single), ("other", pieces)):
        made.decoder = tokenizers.decoders.Fuse()
        made.save(str(place / f"{name}.json"))
    ids = torch.tensor([i for line in pieces.encode_batch(lines) for i in line.ids])
    ids = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    net = Bigrams(pieces.get_vocab_size(), width=16, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(150):
        scores = net(ids)[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(scores, ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_bundle(graph_of(net.eval()), place / "teacher")
    paths = {name: str(place / name) for name in ("own.json", "other.json", "teacher")}
    return SimpleNamespace(own=paths["own.json"], other=paths["other.json"],
                           teacher=paths["teacher"], net=net)  # fmt: skip


def context(graph, data=None):
    data = data or dataset()
    return Context(graph, data, task=settle(graph, data, task=load_task("language_model")))


def options(files, **more):
    both = f"{files.own},{files.other}"
    return {"teachers": files.teacher, "tokenizers": both, "loss": "alm"} | more


def test_spans_have_the_likelihood_of_their_words(files):
    """Every piece of the teacher is a span of signs, from its second on: by a plain loop."""
    own, other = Alphabet(files.own), Alphabet(files.other)
    ids = texts(1, 5)[0].tolist()
    text, ends = own.text(ids)
    assert text == word(ids)
    assert ends == list(range(1, LENGTH + 1))
    pieces, other_ends = other.ids(text)
    logs = files.net(torch.tensor([pieces]))[0, :-1].log_softmax(-1)
    logs = logs[torch.arange(len(pieces) - 1), pieces[1:]].detach()
    number, likelihood, words = spans(LENGTH, cuts(ends, other_ends), logs)
    begin = len(other.tokenizer.id_to_token(pieces[0]))
    assert number[: begin - 1].eq(-1).all()
    for k, piece in enumerate(pieces[1:]):
        length = len(other.tokenizer.id_to_token(piece))
        for at in range(begin, begin + length):  # the sign there is foretold one position before
            assert number[at - 1] == k
            assert likelihood[at - 1].item() == pytest.approx(logs[k].item())
            assert words[at - 1] == length
        begin += length
    assert number[-1] == -1  # nothing follows
    assert len(pieces) < LENGTH


def test_texts_are_cut_where_both_cut_and_never_inside_of_a_sign(tmp_path):
    """Bytes against signs: two bytes of a sign are one span."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(
        {s: i for i, s in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}, []
    ))  # fmt: skip
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(tmp_path / "bytes.json"))
    alphabet = Alphabet(str(tmp_path / "bytes.json"))
    ids, ends = alphabet.ids("aéb")
    assert ends == [1, None, 2, 3]
    assert alphabet.text(ids) == ("aéb", [1, None, 2, 3])
    assert [x[:2] for x in cuts([1, 2, 3], ends)] == [(1, 1), (2, 3), (3, 4)]
    assert cuts([2, 3], [1, 3]) == [(2, 2, 2, 2)]


def test_words_of_no_width_are_in_no_span():
    """The end of a text in the student's words alone, behind the first sign and the third."""
    places = cuts([1, 1, 2, 3, 3], [1, 2, 3])
    assert places == [(1, 1, 2, 1), (3, 2, 3, 2), (4, 3, 5, 3)]
    number, likelihood, words = spans(5, places, torch.tensor([-1.0, -2.0]))
    assert number.tolist() == [-1, 0, 1, -1, -1]
    assert likelihood[1:3].tolist() == [-1.0, -2.0]
    assert words[1:3].tolist() == [1, 1]


def test_a_span_that_lacks_a_word_is_left_out():
    number = torch.tensor([0, 0, -1, 7, 7, 9])
    likelihood = torch.tensor([-1.0, -1, -1, -2, -2, -3])
    found = Spans.of(number, likelihood, torch.tensor([2, 2, -1, 3, 3, 1]))
    assert found.number.tolist() == [0, 0, -1, -1, -1, 1]
    assert found.likelihood.tolist() == [-1.0, -3.0]


@pytest.mark.parametrize("t", [1.0, 100.0])
def test_the_loss_is_the_divergence_of_two_chances(t):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    labels, number = torch.tensor([0, 3, 1, 2, 2, 0]), torch.tensor([0, 0, -1, 1, 2, 2])
    theirs = torch.tensor([-2.5, -0.4, -3.0], dtype=torch.float64)
    seen = Seen(Readings(rows), Readings(rows), labels, spans=Spans(number, theirs))
    want = 0.0
    for k, log in enumerate(theirs.tolist()):
        mine = math.prod(softmax(rows[i].tolist())[labels[i]] for i in range(6) if number[i] == k)
        a, b = math.exp(log) ** (1 / t), mine ** (1 / t)
        want += t * (a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))) / 3
    assert Alm(T=t).mean(seen).item() == pytest.approx(want, rel=1e-9)


def test_a_student_of_signs_learns_from_a_teacher_of_pieces(files):
    student = graph_of(Bigrams(seed=4))
    ctx = context(student.copy())
    ids = texts(64, 77)

    def loss():
        scores = lower(student)(ids)[:, 3:-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(scores, ids[:, 4:].flatten()).item()

    before = loss()
    Distill(**options(files, epochs=12, lr=0.03)).run(student, ctx)
    assert loss() < before - 0.7
    said = [text for _, text in ctx.notes if "another tokenizer" in text]
    assert len(said) == 1
    assert said[0].endswith("of the words of 224 texts are in spans that both cut alike")
    assert "beside the teacher" not in ctx.records  # its own start is no teacher of it


@pytest.mark.parametrize("dies_at", [3, 7])
def test_killed_and_begun_again_it_is_the_same_run(files, tmp_path, dies_at):
    data, start = dataset(64), graph_of(Bigrams(seed=4))
    task = settle(start, data, task=load_task("language_model"))
    pass_ = Distill(**options(files, loss="0.5*ce + 0.5*alm", epochs=4, batch_size=16))
    check_resumes([Start(layer="scores"), pass_], start, data, tmp_path, dies_at=dies_at, task=task)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("tokenizers='a,b',loss=alm", "tokenizers are of one teacher"),
        ("tokenizers='a,b',teachers='t,u',loss=alm", "tokenizers are of one teacher"),
        ("tokenizers=a,teachers=t,loss=alm", "tokenizers are two files"),
        ("tokenizers='a,b',teachers=t", "tokenizers are read by alm"),
        ("tokenizers='a,b',teachers=t,loss=alm,on_policy=0.5", "tokenizers and on_policy"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, wanted):
    with pytest.raises(CompresscError, match=rf"CC102.*{wanted}"):
        parse_passes(f"distill({given})")


def test_files_that_are_no_tokenizers_or_of_others_are_refused(files, tmp_path):
    graph = graph_of(Bigrams(seed=4))
    (tmp_path / "bad.json").write_text("{}")

    def refused(pattern, graph=graph, **given):
        with pytest.raises(CompresscError, match=pattern):
            Distill(**options(files, epochs=1, **given)).run(graph.copy(), context(graph))

    bad = tmp_path / "bad.json"
    refused("CC300.*a tokenizer is a file tokenizer.json", tokenizers=f"{bad},{files.other}")
    turned = f"{files.other},{files.own}"
    refused("CC301.*the run's model knows the .* words of its tokenizer", tokenizers=turned)
    few = tmp_path / "few"
    save_bundle(graph_of(Bigrams()), few)
    refused(r"CC208.*the teacher knows the .* words of its tokenizer \(got 17\)", teachers=str(few))


def test_alm_needs_a_teacher_of_another_tokenizer():
    graph = graph_of(Bigrams(WORDS))
    with pytest.raises(CompresscError, match=r"CC301.*'alm' needs a teacher of another tokenizer"):
        Distill(loss="alm", epochs=1).run(graph.copy(), context(graph))
    assert Loss(parse_loss("alm")).reads == {"rows", "labels", "spans"}
