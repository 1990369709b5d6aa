"""Every built implementation of the kernels, one at a time."""

from collections.abc import Iterator

import pytest
import torch
from emulated import on_a_gpu

from compressc.kernels import dispatch, native


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Kernels this small gain nothing from threads; on shared cores, spinning ones cost minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ISAS = ("avx512", "avx2", "portable")


@pytest.fixture(params=[*ISAS, "cuda-emulated", "reference"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Force one implementation for the length of a test; skip what this machine lacks."""
    name = request.param
    if name == "reference":
        with dispatch.using("reference"):
            yield name
        return
    if name == "cuda-emulated":
        with on_a_gpu(), dispatch.using("cuda"):
            yield name
        return
    if native.MODULE is None:
        pytest.skip(native.REASON)
    before = native.MODULE.instruction_set()
    if not native.MODULE.use_instruction_set(name):
        pytest.skip(f"this processor has no {name}")
    with dispatch.using("native"):
        yield name
    native.MODULE.use_instruction_set(before)
