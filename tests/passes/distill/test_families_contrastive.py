"""Samples told from one another: both losses by plain loops, the memory, and a training."""

import math

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.contrastive.crd import Crd, Memory
from compressc_distill.families.contrastive.infonce import InfoNce
from distill_nets import Start

from compressc.distillation import Readings, Seen
from compressc.errors import CompresscError
from compressc.pipeline import Context, parse_passes
from compressc.testing import check_resumes


def vectors(seed, rows=4, width=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64)


def seen(student, teacher, **more):
    rows = torch.zeros(len(student), 1)
    return Seen(Readings(rows, vectors=student), Readings(rows, vectors=teacher), **more)


def length(x):
    return math.sqrt(sum(a * a for a in x))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def image(x):
    return [a / length(x) for a in x]


def test_infonce_finds_the_teachers_vector_of_a_sample():
    student, teacher, t = vectors(0), vectors(1), 0.5
    want = 0.0
    for i, mine in enumerate(student.tolist()):
        e = [math.exp(dot(image(mine), image(its)) / t) for its in teacher.tolist()]
        want -= math.log(e[i] / sum(e)) / 4
    assert float(InfoNce(T=t).mean(seen(student, teacher))) == pytest.approx(want, rel=1e-6)


def test_infonce_maps_other_widths():
    of = seen(vectors(0), vectors(1, width=5))
    module = InfoNce().module(of).double()
    assert InfoNce().module(seen(vectors(0), vectors(1))) is None
    mapped = (vectors(0) @ module.weight.mT).detach()
    apart = InfoNce().mean(seen(mapped, vectors(1, width=5)))
    together = InfoNce().mean(seen(vectors(0), vectors(1, width=5), own=module))
    assert float(together) == pytest.approx(float(apart), rel=1e-9)


def critic(pair, others, total, z):
    """Equation 18 for one anchor: h = e / (e + N/M), e = exp / Z."""
    noise = len(others) / total
    e = [math.exp(x) / z for x in (pair, *others)]
    h = [x / (x + noise) for x in e]
    return -math.log(h[0]) - sum(math.log(1 - x) for x in h[1:])


def test_crd_tells_a_pair_from_what_is_remembered():
    torch.manual_seed(0)
    objective, student, teacher = Crd(T=0.5, negatives=3, size=2), vectors(0), vectors(1, width=5)
    positions = torch.tensor([5, 0, 3, 6])
    own = objective.module(seen(student, teacher, samples=7)).double()
    banks = [bank.clone() for bank in own.banks]
    state = torch.get_rng_state()
    of = seen(student, teacher, own=own, positions=positions, samples=7)
    got = objective.mean(of)
    torch.set_rng_state(state)
    others = own.others(positions, 3)
    assert all(p not in row for p, row in zip(positions.tolist(), others.tolist(), strict=True))
    sides = [
        [image(x) for x in (vectors_ @ f.weight.mT + f.bias).tolist()]
        for f, vectors_ in zip(own.maps, (student, teacher), strict=True)
    ]
    want = 0.0
    for side in (0, 1):
        logits = []
        for i in range(4):
            remembered = [banks[1 - side][j].tolist() for j in others[i].tolist()]
            pair = dot(sides[0][i], sides[1][i]) / 0.5
            logits.append([pair, *(dot(sides[side][i], x) / 0.5 for x in remembered)])
        every = [math.exp(x) for row in logits for x in row]
        z = sum(every) / len(every) * 7
        assert float(own.scale[side]) == pytest.approx(math.log(z), rel=1e-6)
        want += sum(critic(row[0], row[1:], 7, z) for row in logits) / 4
    assert got.item() == pytest.approx(want, rel=1e-6)
    for side, bank in enumerate(own.banks):
        for row in range(7):
            if row not in positions:
                assert torch.equal(bank[row], banks[side][row])
        for i, place in enumerate(positions.tolist()):
            mixed = [
                (a + b) / 2
                for a, b in zip(banks[side][place].tolist(), sides[side][i], strict=True)
            ]
            assert bank[place].tolist() == pytest.approx(image(mixed), rel=1e-6)


def test_crd_draws_every_other_sample_and_never_the_same():
    memory = Memory(6, 2, 2, 2)
    drawn = memory.others(torch.tensor([0, 2, 5]), 500)
    assert [sorted(set(row)) for row in drawn.tolist()] == [
        [1, 2, 3, 4, 5],
        [0, 1, 3, 4, 5],
        [0, 1, 2, 3, 4],
    ]


def test_a_validation_remembers_nothing_and_draws_nothing():
    objective = Crd(size=2)
    own = objective.module(seen(vectors(0), vectors(1), samples=7)).double().eval()
    banks, state = [b.clone() for b in own.banks], torch.get_rng_state()
    of = seen(vectors(0), vectors(1), own=own, positions=torch.arange(4), samples=4)
    first, second = (objective.mean(of).item() for _ in (1, 2))
    ours, theirs = (
        [image(x) for x in (side @ f.weight.mT + f.bias).tolist()]
        for f, side in zip(own.maps, (vectors(0), vectors(1)), strict=True)
    )
    want = 0.0
    for a, b in ((ours, theirs), (theirs, ours)):
        for i in range(4):
            e = [math.exp(dot(a[i], x) / 0.07) for x in b]
            want -= math.log(e[i] / sum(e)) / 4
    assert first == second == pytest.approx(want, rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    own.train()
    with torch.no_grad():  # batch norms are tried so, on held-out samples, before the first step
        assert objective.mean(of).item() == first
    assert all(torch.equal(a, b) for a, b in zip(banks, own.banks, strict=True))
    one = seen(vectors(0, 1), vectors(1, 1), own=own)
    assert float(objective.mean(one)) == 0  # of one sample there is nothing to tell


@pytest.mark.parametrize("loss", ["ce + 0.02*crd(negatives=50,size=8)", "ce + 0.1*infonce"])
def test_a_student_learns_by_it(teacher, student, data, loss):
    ctx = Context(teacher, data)
    Distill(epochs=20, lr=0.03, loss=loss).run(student, ctx)
    name = "crd" if "crd" in loss else "infonce"
    epochs = ctx.records["training"]["history"]
    assert epochs[-1]["terms"][name] < epochs[0]["terms"][name]
    assert ctx.records["training"]["best"][1] > 0.8


@pytest.mark.parametrize("loss", ["ce + 0.02*crd(negatives=50,size=8)", "ce + 0.1*infonce"])
def test_killed_and_begun_again_it_is_the_same_run(teacher, data, tmp_path, loss):
    pass_ = Distill(epochs=3, batch_size=64, loss=loss)
    check_resumes([Start(), pass_], teacher, data, tmp_path, dies_at=8)


@pytest.mark.parametrize("text", ["crd(negatives=0)", "crd(size=1)", "infonce(T=0)"])
def test_options_out_of_bounds_are_refused(text):
    with pytest.raises(CompresscError, match="CC102"):
        parse_passes(f"distill(loss='{text}')")


@pytest.mark.parametrize("objective", [Crd(), InfoNce()])
def test_a_number_by_itself_is_no_vector(objective):
    with pytest.raises(CompresscError, match=r"CC301.*vectors of 2 numbers or more"):
        objective.check(seen(vectors(0, width=1), vectors(1, width=1)))
