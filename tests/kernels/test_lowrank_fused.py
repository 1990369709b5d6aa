"""The fused low-rank kernel of the CPU, in each instruction set, against float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import FLOATS
from products import FORMS, ISAS, assert_close, errors, exactly, factors, instruction_set

from compressc.kernels import native

#: in, r and out: 1, odd, of no vector's width, longer than what is summed in one go.
SIZES = [(1, 1, 1), (33, 7, 17), (300, 20, 31), (64, 16, 64), (16, 33, 3)]
MOST_ROWS = 70  # two whole blocks of the widest vectors, and some


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("size", SIZES)
def test_the_fused_kernel_on_every_number_of_rows(isa, dtype, size):
    torch.manual_seed(0)
    with instruction_set(isa, dtype):
        _, v, u, bias = (tensor.to(dtype) for tensor in factors(1, *size))
        seen = []
        for rows in range(1, MOST_ROWS):
            x = torch.randn(rows, size[0]).to(dtype)
            arguments = (x, v, u, bias if rows % 2 else None)
            got = native.lowrank_linear(*arguments)
            seen.append(errors(got, *arguments))
            torch.set_num_threads(2)
            assert torch.equal(native.lowrank_linear(*arguments), got)
            torch.set_num_threads(1)
        # Over all of them: a few elements by themselves can be lucky.
        ours, plain = (max(column) for column in zip(*seen, strict=True))
        assert ours <= 2 * plain + 1e-6


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("rows", [1, 3, 40, 65, 256])
def test_threads_share_rows_or_columns_with_the_same_result(isa, dtype, rows):
    """Sizes that for_rows thinks worth two and three threads: many blocks of rows, and few."""
    torch.manual_seed(0)
    with instruction_set(isa, dtype):
        x, v, u, bias = (tensor.to(dtype) for tensor in factors(rows, 900, 301, 1203))
        one = native.lowrank_linear(x, v, u, bias)
        assert_close(one, x, v, u, bias)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(native.lowrank_linear(x, v, u, bias), one)


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("rows", [2, 13, 40])
def test_the_fused_kernel_with_nan_and_infinity(isa, dtype, rows):
    """One bad element spoils what it spoils in float32, and no neighbour in memory.

    Not what it spoils in bfloat16 in torch: on processors with AMX that is the row before, too,
    where a row has an odd number of elements.
    """
    torch.manual_seed(0)
    with instruction_set(isa, dtype):
        for bad in (float("nan"), float("inf"), -float("inf")):
            for which, place in itertools.product(range(4), ("row starts", "middle")):
                arguments = [tensor.to(dtype) for tensor in factors(rows, 33, 7, 17)]
                spoilt = arguments[which]
                # An odd row's last element shares a pair with what follows it: the next row.
                at = spoilt.shape[-1] if place == "row starts" else spoilt.numel() // 2
                spoilt.view(-1)[at % spoilt.numel()] = bad
                got = native.lowrank_linear(*arguments)
                x, v, u, bias = (tensor.float() for tensor in arguments)
                want = F.linear(F.linear(x, v), u, bias)
                assert torch.equal(got.isnan(), want.isnan())
                assert torch.equal(got.isinf(), want.isinf())


@pytest.mark.parametrize("isa", ISAS)
def test_the_fused_kernel_takes_any_layout_and_any_leading_dimensions(isa):
    torch.manual_seed(0)
    with instruction_set(isa, torch.float32):
        x, v, u = torch.randn(33, 4, 5).permute(1, 2, 0), torch.randn(33, 7).T, torch.randn(7, 17).T
        bias = torch.randn(34)[::2]
        assert not any(tensor.is_contiguous() for tensor in (x, v, u, bias))
        assert_close(native.lowrank_linear(x, v, u, bias), x, v, u, bias)
        one = torch.randn(33)
        assert_close(native.lowrank_linear(one, v, u, bias), one, v, u, bias)


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "isa": st.sampled_from(ISAS),
        "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
        "rows": st.integers(1, MOST_ROWS),
        "size": st.tuples(st.integers(1, 300), st.integers(1, 70), st.integers(1, 70)),
        "bias": st.booleans(),
        "threads": st.integers(1, 3),
    }
)


def run_random(count: int) -> None:
    if native.MODULE is None:
        pytest.skip(native.REASON)
    module, before = native.MODULE, native.MODULE.instruction_set()

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(cases)
    def body(case: dict) -> None:
        dtype = case["dtype"]
        if not module.use_instruction_set(case["isa"]) or not native.has_lowrank_linear(dtype):
            return
        torch.manual_seed(case["seed"])
        torch.set_num_threads(case["threads"])
        x, v, u, bias = (t.to(dtype) for t in factors(case["rows"], *case["size"]))
        bias = bias if case["bias"] else None
        got, exact = native.lowrank_linear(x, v, u, bias), exactly(x, v, u, bias)
        unit = FLOATS[dtype]
        # What a sum of products in any order may be off, and the rounding of either product.
        thin = x.double().abs() @ v.double().abs().T
        size = thin @ u.double().abs().T + (0 if bias is None else bias.double().abs())
        steps = FLOATS[torch.float32] * (x.shape[1] + v.shape[0] + 2)
        assert ((got.double() - exact).abs() <= (2 * unit + steps) * size + 1e-30).all()

    threads = torch.get_num_threads()
    try:
        body()
    finally:
        module.use_instruction_set(before)
        torch.set_num_threads(threads)


def test_the_fused_kernel_on_random_sizes():
    run_random(200)
