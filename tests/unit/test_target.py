"""What a run is for: the instruction set follows from the processor's flags."""

from __future__ import annotations

import platform

import pytest

from compressc.errors import CompresscError
from compressc.target import INSTRUCTION_SETS, Target, instruction_set, name_of

# the flags that matter, as /proc/cpuinfo has them
HASWELL = ["fpu", "sse4_2", "fma", "avx", "avx2", "bmi2"]
SKYLAKE_X = [*HASWELL, "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"]
ICE_LAKE = [*SKYLAKE_X, "avx512_vnni", "avx512_bitalg"]
SAPPHIRE_RAPIDS = [*ICE_LAKE, "avx_vnni", "amx_bf16", "amx_tile", "amx_int8"]
ALDER_LAKE = [*HASWELL, "avx_vnni"]


@pytest.mark.parametrize(
    ("flags", "name", "saturates"),
    [
        (["fpu", "sse4_2"], "sse", True),
        (HASWELL, "avx2", True),
        (SKYLAKE_X, "avx512", True),
        (ALDER_LAKE, "avx_vnni", False),
        (ICE_LAKE, "avx512_vnni", False),
        (SAPPHIRE_RAPIDS, "amx", False),
    ],
)
def test_x86(flags: list[str], name: str, saturates: bool) -> None:
    """VNNI is what adds int8 products in 32 bits."""
    assert name_of(flags, "x86_64") == name
    assert Target(instruction_set=name).saturates_int8 is saturates


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("fp asimd evtstrm", "neon"),
        ("fp asimd asimddp", "neon_dotprod"),
        ("fp asimd asimddp i8mm sve", "neon_i8mm"),
    ],
)
def test_arm(flags: str, name: str) -> None:
    assert name_of(flags.split(), "aarch64") == name
    assert not Target(instruction_set=name).saturates_int8


def test_another_processor_is_called_by_its_architecture() -> None:
    assert name_of([], "riscv64") == "riscv64"


def test_torch_held_back_counts() -> None:
    assert name_of(SAPPHIRE_RAPIDS, "x86_64", limit="avx2") == "avx2"
    assert name_of(SAPPHIRE_RAPIDS, "x86_64", limit="default") == "sse"
    assert name_of(SAPPHIRE_RAPIDS, "x86_64", limit="avx512") == "amx"
    assert name_of(["asimd"], "aarch64", limit="default") == "neon"


def test_the_limit_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the limit is one of x86")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert instruction_set() == Target().instruction_set == "sse"
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    assert instruction_set() in INSTRUCTION_SETS


@pytest.mark.parametrize(
    "wrong",
    [{"threads": 0}, {"threads": 100_000}, {"batches": (1, 0)}, {"instruction_set": "avx1024"}],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(CompresscError, match="CC100"):
        Target(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(CompresscError, match="CC603") as caught:
        Target(device=device)
    assert len(str(caught.value).splitlines()) == 1
