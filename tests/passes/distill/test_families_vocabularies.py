"""Teachers whose tables of words are padded otherwise: what is compared, and a distillation."""

import math

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.teachers import vocabularies
from language_nets import WORDS, Bigrams, dataset, graph_of, texts, trained
from rows_of import softmax

from compressc.distillation import Answers, Loss, look, parse_loss
from compressc.errors import CompresscError
from compressc.ir import lower, save_bundle
from compressc.pipeline import Context
from compressc.tasks import load_task, settle, task_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net():
    return trained(Bigrams())


def context(net, data=None):
    graph, data = graph_of(net), data or dataset()
    return Context(graph, data, task=settle(graph, data, task=load_task("language_model")))


def padded(net, rows):
    """The same model with rows in its tables that are nobody's words."""
    more = Bigrams(WORDS + rows)
    with torch.no_grad():
        more.past.load_state_dict(net.past.state_dict())
        more.table.weight[:WORDS] = net.table.weight
        more.scores.weight[:WORDS], more.scores.bias[:WORDS] = net.scores.weight, net.scores.bias
        more.scores.bias[WORDS:] = 3.0  # as good as never seen; not so here
    return more.eval()


def file_of(net, tmp_path, name="teacher"):
    save_bundle(graph_of(net), tmp_path / name)
    return str(tmp_path / name)


@pytest.mark.parametrize("objective", ["kd(T=2)", "reverse_kl(T=2)"])
def test_ids_that_both_know_are_compared_and_labels_are_held_against_all(net, objective):
    """By its formula: 17 words of the teacher against 20 of the student."""
    ctx = context(padded(net, 3))
    task, ids = task_of(ctx), texts(3)
    theirs = vocabularies.Padded(Given(net(ids).detach()), WORDS, WORDS + 3).answers(None)
    ours = Answers((lower(ctx.teacher)(ids).detach(),))
    loss = Loss(parse_loss(f"0.3*ce + 0.7*{objective}"))
    got = float(loss.total(look(task, ours, theirs, task.targets((ids,), None))))
    want, places = 0.0, [(b, t) for b in range(3) for t in range(ids.shape[1] - 1)]
    for b, t in places:
        mine = ours.learned[0][b, t].double().tolist()
        p = softmax(net(ids)[b, t].double().tolist(), 2)
        q = softmax(mine[:WORDS], 2)
        p, q = (p, q) if "reverse" not in objective else (q, p)
        want += 0.7 * 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        want -= 0.3 * math.log(softmax(mine)[ids[b, t + 1]])
    assert got == pytest.approx(want / len(places), rel=1e-5)


class Given:
    """A teacher that says the same whatever it is asked."""

    def __init__(self, scores):
        self.scores = scores

    def answers(self, batch):
        return Answers((self.scores,))

    def close(self):
        pass


def test_rows_that_are_nobodys_words_are_left_out_of_the_teacher(net):
    ids = texts(3)
    answers = vocabularies.Padded(Given(padded(net, 3)(ids)), WORDS + 3, WORDS).answers(None)
    assert answers.known is None
    torch.testing.assert_close(answers.learned[0].softmax(-1), net(ids).softmax(-1))


@pytest.mark.parametrize(("of_teacher", "of_student"), [(0, 3), (3, 0)])
def test_a_student_learns_from_a_teacher_whose_table_is_padded_otherwise(
    net, tmp_path, of_teacher, of_student
):
    name = file_of(padded(net, of_teacher), tmp_path)
    torch.manual_seed(5)
    ctx = context(Bigrams(WORDS + of_student, seed=5))
    student = ctx.teacher.copy()
    options = {"teachers": name, "loss": "kd", "epochs": 12, "lr": 0.03}
    Distill(**options).run(student, ctx)
    ids = texts(64, 77)
    ours, theirs = lower(student)(ids)[..., :WORDS], net(ids)
    assert float((ours.argmax(-1) == theirs.argmax(-1))[:, 1:].float().mean()) > 0.7
    words = (WORDS + of_teacher, WORDS + of_student)
    said = f"{name} knows {words[0]} words, the run's model {words[1]}: the first 17 are compared"
    assert said in [text for _, text in ctx.notes]
    assert ctx.records["teachers"]["scores"][name] < 4  # perplexity


def test_another_tokenizer_and_words_that_the_teacher_lacks_are_refused(net, tmp_path):
    ctx = context(Bigrams(WORDS + 200))
    graph = graph_of(net)
    with pytest.raises(CompresscError, match=r"CC208.*knows 217 words.*17 words, more"):
        vocabularies.place(graph, ctx, "other")
    data = dataset()
    data.train.inputs[0][3, 4] = WORDS
    ctx = context(Bigrams(WORDS + 3), data)
    with pytest.raises(CompresscError, match=r"CC208.*own are 0 to 16 \(got the id 17\).*other"):
        vocabularies.place(graph, ctx, "other")
