"""Samples of several lengths: what a batch of them is, and what is refused."""

import pytest
import torch

from compressc.data.computed import Computed
from compressc.data.hugging_face import Table
from compressc.errors import CompresscError


def ids(length):
    return torch.arange(1, length + 1)


class Texts:
    """Samples by name, of these lengths."""

    lengths = (3, 5, 2, 5)

    def __init__(self, *names, pad=None):
        self.names, self.pad = names, pad

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, position):
        length = self.lengths[position]
        every = {
            "input_ids": ids(length),
            "attention_mask": torch.ones(length, dtype=torch.int64),
            "token_type_ids": torch.ones(length, dtype=torch.int64),
            "labels": ids(length),
            "label": torch.tensor(position),
            "values": torch.ones(length),
        }
        return {name: every[name] for name in self.names}


def test_a_mask_says_what_counts_and_no_target_is_behind_the_end():
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    batch = Computed(Texts(*names), "texts").select(torch.tensor([0, 1, 2]))
    words, mask, types = batch.inputs
    assert words.tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5], [1, 2, 0, 0, 0]]
    assert mask.sum(1).tolist() == types.sum(1).tolist() == [3, 5, 2]
    assert torch.equal(mask, (words != 0).long())
    assert batch.labels.tolist()[2] == [1, 2, -100, -100, -100]


def test_only_the_longest_of_a_batch_counts():
    source = Computed(Texts("input_ids", "attention_mask"), "texts")
    assert source.select(torch.tensor([2, 0])).inputs[0].shape == (2, 3)
    assert source.select(torch.tensor([1, 3])).inputs[0].shape == (2, 5)


def test_the_data_set_may_say_what_pads():
    batch = Computed(Texts("input_ids", "labels", pad=9), "texts").select(torch.tensor([2, 0]))
    assert batch.inputs[0].tolist() == [[1, 2, 9], [1, 2, 3]]
    assert batch.labels.tolist() == [[1, 2, -100], [1, 2, 3]]


def test_one_target_of_a_sample_stays_one():
    source = Computed(Texts("input_ids", "attention_mask", "label"), "texts")
    assert source.select(torch.tensor([2, 0])).labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("names", "pad"),
    [
        (("input_ids",), None),  # nobody says what pads
        (("values",), 0),  # numbers are not padded
        (("input_ids", "attention_mask", "values"), None),
    ],
)
def test_what_nothing_says_how_to_pad_is_refused(names, pad):
    with pytest.raises(CompresscError, match=r"CC302.*all samples are like the first") as caught:
        Computed(Texts(*names, pad=pad), "texts").select(torch.arange(4))
    assert "sample 1" in caught.value.where


def test_other_differences_are_refused_still():
    class Deeper(Texts):
        def __getitem__(self, position):
            sample = super().__getitem__(position)
            return {n: x[None] for n, x in sample.items()} if position == 2 else sample

    with pytest.raises(CompresscError, match="CC302") as caught:
        Computed(Deeper("input_ids", "attention_mask"), "texts").select(torch.arange(4))
    assert "sample 2" in caught.value.where


@pytest.mark.parametrize("pad", ["<pad>", True, 1.5])
def test_what_is_no_id_does_not_pad(pad):
    with pytest.raises(CompresscError, match=r"CC300.*pad"):
        Computed(Texts("input_ids", pad=pad), "texts")


def test_a_method_of_that_name_is_none():
    class Own(Texts):
        def pad(self):
            return 0

        def __init__(self, *names):
            self.names = names

    assert Computed(Own("input_ids"), "texts").pad is None


def table(*names):
    datasets = pytest.importorskip("datasets")
    texts = Texts(*names)
    return datasets.Dataset.from_dict(
        {name: [texts[i][name].tolist() for i in range(len(texts))] for name in names}
    )


def test_rows_of_a_table_are_padded_where_there_is_a_mask():
    source = Table(table("input_ids", "attention_mask", "labels"), "table")
    batch = source.select(torch.tensor([2, 0]))
    assert batch.inputs[0].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert batch.inputs[1].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [[1, 2, -100], [1, 2, 3]]


@pytest.mark.parametrize("names", [("input_ids",), ("input_ids", "attention_mask", "values")])
def test_other_rows_of_a_table_are_not(names):
    source = Table(table(*names), "table")
    with pytest.raises(CompresscError, match=r"CC302.*is like its first row"):
        source.select(torch.arange(4))
