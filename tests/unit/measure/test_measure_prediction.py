"""A model's output for every sample."""

import pytest
import torch

from compressc.data import Split
from compressc.errors import CompresscError
from compressc.measure import predict


def test_predict_runs_in_batches_without_gradients():
    weight = torch.tensor([[1.0, -1.0]], requires_grad=True)
    sizes = []

    def run(a, b):
        sizes.append(len(a))
        return (a + b) @ weight

    x = torch.arange(7.0)[:, None]
    out = predict(run, Split((x, x)), batch_size=3)
    assert sizes == [3, 3, 1]
    assert out[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert not out.requires_grad
    assert not out.is_inference()  # usable as a training target


@pytest.mark.parametrize(
    "run", [lambda x: x[:1], lambda x: (x, x), lambda x: x.sum(), lambda x: {"logits": x}]
)
def test_predict_refuses_what_is_not_one_row_per_sample(run):
    with pytest.raises(CompresscError) as caught:
        predict(run, Split((torch.zeros(4, 2),)))
    assert caught.value.code == "CC301"
