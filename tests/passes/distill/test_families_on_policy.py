"""A student that is taught on its own words: by plain numbers, and end to end."""

import math

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.language.continuing import (
    Page,
    chosen,
    lengths_of,
    require_causal,
    write,
)
from compressc_distill.families.language.on_policy import on_own_words
from distill_nets import Start
from language_nets import LENGTH, WORDS, Bigrams, dataset, graph_of, texts, trained
from rows_of import softmax
from torch import nn

from compressc.data import Dataset, Split
from compressc.distillation import Loss, Teacher, Teaching, parse_loss, reader_of
from compressc.errors import CompresscError
from compressc.ir import lower, save_bundle
from compressc.pipeline import Context, parse_passes
from compressc.tasks import load_task, settle, task_of
from compressc.testing import check_resumes, export_graph
from compressc.training import Drawn

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net():
    return trained(Bigrams())


@pytest.fixture(scope="module")
def teacher(net):
    return graph_of(net)


def context(graph, data=None):
    data = data or dataset()
    return Context(graph, data, task=settle(graph, data, task=load_task("language_model")))


def lesson(teacher, student, loss="reverse_kl(T=2)", **options):
    """A lesson on its own words, and the student's module."""
    ctx = context(teacher)
    task, train = task_of(ctx), ctx.data.train
    asked = Teacher(reader_of(teacher, task, [], CPU), [], train, CPU)
    reader = reader_of(student, task, [], CPU)
    teaching = Teaching(train, CPU, asked, reader, task, Loss(parse_loss(loss)))
    return on_own_words(Distill(**options), teaching, student, ctx), reader.module


def likeliest(net, words, count):
    """The text that goes on with the likeliest word each time, a list of ids."""
    words = list(words)
    while len(words) < count:
        words.append(
            max(enumerate(net(torch.tensor([words]))[0, -1].tolist()), key=lambda x: x[1])[0]
        )
    return words


@pytest.mark.parametrize("prompt", [0.5, 0.0])
def test_each_word_that_the_student_wrote_is_marked_by_the_teacher(net, teacher, prompt):
    """The likeliest words: written by a loop, and marked by the formula."""
    own = Bigrams(seed=3)
    taught, module = lesson(
        teacher,
        graph_of(own),
        "0.5*ce + 0.5*reverse_kl(T=2)",
        on_policy=1,
        on_policy_temperature=0,
        on_policy_prompt=prompt,
    )
    ids = texts(3, 9)
    got = taught.terms(module, Drawn(torch.arange(3), None, Split((ids,))))
    want, known = [], max(1, math.ceil(prompt * LENGTH))
    for row in ids.tolist():
        words = likeliest(own, row[:known], LENGTH)
        mine, its = (x(torch.tensor([words]))[0].double() for x in (own, net))
        for t in range(known - 1, LENGTH - 1):  # the word at t + 1 is its own
            p, q = softmax(mine[t].tolist(), 2), softmax(its[t].tolist(), 2)
            want.append(4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert got["reverse_kl"].item() == pytest.approx(sum(want) / len(want), rel=1e-5)
    assert got["ce"].item() == 0.0


def test_padding_stays_padding_and_prompts_go_by_the_length_of_a_text():
    own = Bigrams(seed=3)
    ids = texts(2, 9)
    valid = torch.arange(LENGTH) < torch.tensor([[12], [7]])
    written = write(lambda x: own(x[0]), Page(0, None, None), (ids, valid), torch.tensor([6, 4]), 0)
    assert written[0].tolist() == likeliest(own, ids[0, :6].tolist(), 12)
    assert written[1].tolist() == likeliest(own, ids[1, :4].tolist(), 7) + ids[1, 7:].tolist()


def test_padding_before_a_text_is_refused():
    valid = torch.arange(LENGTH) >= torch.tensor([[0], [5]])
    with pytest.raises(CompresscError, match=r"CC301.*padding stands behind a text"):
        lengths_of(texts(2, 9), valid)


def test_a_model_of_one_length_reads_what_is_known_and_a_mask():
    own, seen = Bigrams(seed=3), []

    def scores(inputs):
        mask, ids = inputs
        seen.append((tuple(ids.shape), int(mask.sum(1)[0])))
        return own(ids)

    ids = texts(2, 9)
    written = write(scores, Page(1, 0, LENGTH), (ids, None), torch.tensor([9, 9]), 0)
    assert written[0].tolist() == likeliest(own, ids[0, :9].tolist(), LENGTH)
    assert seen == [((2, 12), 9), ((2, 12), 10), ((2, 12), 11)]


def test_words_are_drawn_by_their_chances():
    torch.manual_seed(0)
    scores = torch.tensor([2.0, 0.0, 1.0, -3.0])
    drawn = torch.bincount(chosen(scores.expand(20000, -1), 2.0), minlength=4) / 20000
    assert drawn.tolist() == pytest.approx(softmax(scores.tolist(), 2), abs=0.012)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_so_many_batches_are_of_its_own_words(teacher, share):
    taught, module = lesson(teacher, graph_of(Bigrams(seed=3)), on_policy=share)
    batch = Drawn(torch.arange(2), None, Split((texts(2, 9),)))
    plain = super(type(taught), taught).terms(module, batch)["reverse_kl"]
    own = 0
    for number in range(200):
        torch.manual_seed(number)
        own += float(taught.terms(module, batch)["reverse_kl"]) != float(plain)
    assert own == pytest.approx(200 * share, abs=25)


def test_a_student_learns_what_its_teacher_makes_of_its_own_words(net, teacher):
    student = graph_of(Bigrams(seed=4))
    ctx = context(teacher)
    options = {"loss": "reverse_kl", "on_policy": 1.0, "epochs": 10, "lr": 0.03}
    Distill(**options).run(student, ctx)
    ids = texts(64, 77)
    right = lower(student)(ids).argmax(-1) == net(ids).argmax(-1)
    assert float(right[:, 1:].float().mean()) > 0.6
    said = "the student writes the last 50% of each text in 100% of the batches, at temperature 1"
    assert said in [text for _, text in ctx.notes]


@pytest.mark.parametrize("dies_at", [3, 7])
def test_killed_and_begun_again_it_is_the_same_run(teacher, tmp_path, dies_at):
    data = dataset(64)
    pass_ = Distill(loss="jsd", on_policy=0.5, epochs=4, batch_size=16)
    task = task_of(context(teacher, data))
    check_resumes(
        [Start(layer="scores"), pass_], teacher, data, tmp_path, dies_at=dies_at, task=task
    )


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("on_policy=0.5,answers_from=x", "on_policy and answers_from"),
        ("on_policy_temperature=2", "on_policy_temperature is of on_policy"),
        ("on_policy=1.5", "on_policy.*less than or equal to 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, wanted):
    with pytest.raises(CompresscError, match=rf"CC102.*{wanted}"):
        parse_passes(f"distill({options})")


def test_what_continues_no_texts_is_refused():
    from distill_nets import mlp

    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    rows = Split((x,), lower(mlp())(x).argmax(1))
    data = Dataset("rows", rows, rows.take(32), rows.take(8))
    with pytest.raises(
        CompresscError, match=r"CC301.*on_policy is of a model that continues texts"
    ):
        Distill(on_policy=0.5, epochs=1).run(mlp(), Context(mlp(), data))


class Both(nn.Module):
    """Looks at what stands behind a word, too."""

    def __init__(self):
        super().__init__()
        self.table, self.scores = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, ids):
        known = self.table(ids)
        return self.scores(known + known.mean(1, keepdim=True))


def test_a_model_that_looks_ahead_is_refused():
    graph = export_graph(Both().eval(), texts(4))
    page = Page.of(graph)
    assert page == Page(0, None, LENGTH)
    with pytest.raises(CompresscError, match=r"CC105.*looks back only.*scores that move by"):
        require_causal(lambda x: lower(graph)(*x), page, texts(4), "both")
    require_causal(lambda x: Bigrams()(*x), page, texts(4), "bigrams")


def test_a_model_that_reads_more_than_text_is_refused():
    class Two(nn.Module):
        def forward(self, ids, x):
            return torch.nn.functional.one_hot(ids, WORDS) * x

    graph = export_graph(Two().eval(), texts(4), torch.randn(4, 1, 1))
    with pytest.raises(CompresscError, match=r"CC204.*takes ids \[b, s\]"):
        Page.of(graph)


def test_kept_answers_are_those_of_the_data(teacher):
    """Own words are marked anew; the texts of the data keep their answers."""
    data = dataset(32)
    data = Dataset("few", data.train, data.calibration, data.test)
    taught, module = lesson(teacher, graph_of(Bigrams(seed=3)), on_policy=1.0)
    batch = Drawn(torch.arange(2), None, data.train.take(2))
    before = taught.teacher.answers(batch).learned[0].clone()
    torch.manual_seed(0)
    taught.terms(module, batch)
    assert torch.equal(taught.teacher.answers(batch).learned[0], before)


def test_another_teacher_marks_them_in_the_words_that_both_know(net, teacher, tmp_path):
    """Its table is padded, and so is not the student's."""
    more = Bigrams(WORDS + 3)
    with torch.no_grad():
        more.past.load_state_dict(net.past.state_dict())
        more.table.weight[:WORDS] = net.table.weight
        more.scores.weight[:WORDS], more.scores.bias[:WORDS] = net.scores.weight, net.scores.bias
    save_bundle(graph_of(more), tmp_path / "padded")
    start = graph_of(Bigrams(seed=4))
    found = []
    for options in ({"teachers": str(tmp_path / "padded")}, {}):
        student = start.copy()
        ctx = context(start if options else teacher)
        how = {"loss": "reverse_kl", "on_policy": 1.0, "epochs": 2, "lr": 0.02}
        Distill(**how, **options).run(student, ctx)
        found.append(lower(student)(texts(8, 77)).softmax(-1))
    torch.testing.assert_close(*found, rtol=0, atol=5e-3)
    apart = (lower(start)(texts(8, 77)).softmax(-1) - found[0]).abs().max()
    assert apart.item() > 0.1
