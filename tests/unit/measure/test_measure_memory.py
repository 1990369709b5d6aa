"""Peak memory against tensors whose bytes are known."""

import torch

from compressc.measure import peak_bytes


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
