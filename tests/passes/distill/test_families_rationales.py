"""Reasons as a second task: texts and what is learned of them, by hand, and a training."""

import json

import pytest
from compressc_distill.families.language.rationales import LABEL, RATIONALE, step_by_step
from language_nets import Bigrams

import compressc
from compressc.errors import CompresscError
from compressc.tasks import NO_LABEL

tokenizers = pytest.importorskip("tokenizers")
SIGNS = "\n ?+=[]0123456789" + "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def signs(tmp_path):
    """A tokenizer of single signs."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE({s: i for i, s in enumerate(SIGNS)}, []))
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def lines(count):
    """Sums of two digits, told step by step for all but every fourth."""
    for i in range(count):
        a, b = i % 10, (i * 7 + i // 10) % 10
        why = {} if i % 4 == 0 else {"rationale": f"{a} and {b} are {a + b}"}
        yield {"input": f"{a}+{b}?", "label": str(a + b)} | why


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, lines(40))) + "\n\n")
    return path


def read(ids):
    return "".join(SIGNS[i] for i in ids)


def told(part, row):
    """The text of a sample without padding, and the signs of it that are learned."""
    (ids, mask), labels = part.inputs, part.labels[row]
    size = int(mask[row].sum())
    wanted = [(t, int(label)) for t, label in enumerate(labels.tolist()) if label != NO_LABEL]
    for t, label in wanted:
        assert label == ids[row, t + 1]  # what follows
    return read(ids[row, :size].tolist()), read([label for _, label in wanted])


def test_each_line_is_a_text_of_labels_and_one_of_reasons(file, signs):
    data = step_by_step(file, signs, 40, mask=True)
    known = {line["input"] + line["label"]: line for line in lines(40)}
    found = [told(data.train, row) for row in range(len(data.train))]
    labels = [x for x in found if x[0].startswith(LABEL)]
    reasons = [x for x in found if x[0].startswith(RATIONALE)]
    assert len(labels) == 32
    for text, learned in labels:
        given, right = text.removeprefix(LABEL).split("\n")
        assert learned == right == known[given + right]["label"]
    for text, learned in reasons:
        given, why = text.removeprefix(RATIONALE).split("\n")
        assert learned == why
        assert why in [x.get("rationale") for x in lines(40) if x["input"] == given]
    explained = {t.removeprefix(RATIONALE).split("\n")[0] for t, _ in reasons}
    assert explained == {x["input"] for x in lines(40) if "rationale" in x} & {
        t.removeprefix(LABEL).split("\n")[0] for t, _ in labels
    }


def test_validation_and_test_are_labels_of_other_lines(file, signs):
    data = step_by_step(file, signs, 40, mask=True)
    parts = (data.train, data.validation, data.test)
    texts = [{told(part, row)[0] for row in range(len(part))} for part in parts]
    assert [len(part) for part in parts[1:]] == [4, 4]
    assert all(text.startswith(LABEL) for part in texts[1:] for text in part)
    assert not texts[0] & (texts[1] | texts[2])
    assert not texts[1] & texts[2]


@pytest.mark.parametrize("weight", [0, 0.5, 1, 2.25])
def test_the_weight_is_how_often_reasons_come(file, signs, weight):
    once = len(step_by_step(file, signs, 40).train) - 32
    data = step_by_step(file, signs, 40, weight=weight)
    assert len(data.train) - 32 == round(weight * once)
    assert data.fingerprint == step_by_step(file, signs, 40, weight=weight).fingerprint
    assert len(data.train.inputs) == 1


def test_long_texts_lose_the_beginning_of_what_is_given(tmp_path, signs):
    path = tmp_path / "long.jsonl"
    given = {"input": "abcdefghijklmnop", "label": "42"}
    path.write_text("\n".join([json.dumps(given)] * 4))
    with pytest.raises(
        CompresscError, match=r"CC300.*20 words or fewer \(got 27\) at .*long.jsonl:"
    ):
        step_by_step(path, signs, 20)
    data = step_by_step(path, signs, 20, cut=True, mask=True)
    assert told(data.train, 0) == ("[label] hijklmnop\n42", "42")
    data = step_by_step(path, signs, 21, end=2, mask=True, cut=True)
    assert told(data.train, 0) == ("[label] hijklmnop\n42?", "42?")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [("{", "CC300.*bad.jsonl:2"), ("[1]", "CC300.*list"), ('{"input": "a"}', r"CC300.*got input"),
     ('{"input": "a", "label": 3}', "CC300.*input, label")],
)  # fmt: skip
def test_a_line_that_is_no_example_is_named(tmp_path, signs, line, wanted):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"input": "a", "label": "b"}\n' + line)
    with pytest.raises(CompresscError, match=wanted):
        step_by_step(path, signs, 40)


def test_most_lines_may_be_held_out(file, signs):
    data = step_by_step(file, signs, 40, weight=0, held_out=0.45)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [4, 18, 18]


def test_files_and_numbers_that_make_no_data_are_refused(tmp_path, file, signs):
    with pytest.raises(CompresscError, match=r"CC300.*none.jsonl"):
        step_by_step(tmp_path / "none.jsonl", signs, 40)
    with pytest.raises(CompresscError, match=r"CC100.*weight=-1"):
        step_by_step(file, signs, 40, weight=-1)
    few = tmp_path / "few.jsonl"
    few.write_text('{"input": "a", "label": "b"}\n')
    with pytest.raises(CompresscError, match=r"CC300.*1 lines"):
        step_by_step(few, signs, 40)


def test_a_model_learns_both_tasks(file, signs):
    data = step_by_step(file, signs, 40)
    net = Bigrams(len(SIGNS), width=16, seed=1)
    done = compressc.compile(net, "distill(loss=ce,epochs=6,lr=0.03)", data=data, cache=None)
    before, after = done.report.teacher.scores, done.report.passes[-1].scores
    assert after["perplexity"] < 0.5 * before["perplexity"]
