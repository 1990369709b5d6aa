"""Peak memory against tensors whose bytes are known; batches that do not fit are refused."""

import pytest
import torch

from compressc.errors import CompresscError
from compressc.ir import parse_graph
from compressc.measure import memory, peak_bytes, require_memory


def test_the_peak_is_what_is_held_at_once_not_what_was_allocated_in_all():
    def one_after_another() -> None:
        for _ in range(3):
            torch.empty(1 << 20)

    def together() -> list[torch.Tensor]:
        return [torch.empty(1 << 20) for _ in range(3)]

    assert peak_bytes(one_after_another) == 4 << 20
    assert peak_bytes(together) == 3 * (4 << 20)


def test_what_was_there_before_does_not_count():
    before = torch.ones(1 << 20)
    assert peak_bytes(lambda: before.add_(1.0)) < 1 << 10


@pytest.mark.parametrize(("free", "fits"), [(None, True), (400_000, True), (399_999, False)])
def test_the_largest_batch_must_fit(monkeypatch, free, fits):
    """24 floats in and 1,000 / 10 - 24 = 76 out: 400 bytes of each sample, a thousand samples."""
    graph = parse_graph(
        "graph g(%x: f32[b,24]) {\n"
        "  %y = linear(%x) {in=24, out=76} @y.weight @y.bias : f32[b,76]\n"
        "  return %y\n}"
    )
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    if fits:
        require_memory(graph, [1, 1000, 64])
        return
    with pytest.raises(CompresscError, match=r"CC100.*batch of 1,000 fits") as caught:
        require_memory(graph, [1, 1000, 64])
    assert "smaller --batches" in caught.value.hint
    require_memory(graph, [999])
    require_memory(graph, [])
