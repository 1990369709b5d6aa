"""Objectives of inner values, each by its definition in plain loops."""

import math
from statistics import fmean, pstdev

import pytest
import torch
from compressc_distill.objectives.at import AttentionTransfer
from compressc_distill.objectives.cwd import Cwd
from compressc_distill.objectives.hidden import Hidden
from compressc_distill.objectives.hint import Hint
from compressc_distill.objectives.nst import Nst
from compressc_distill.objectives.pkd import Pkd
from compressc_distill.objectives.vkd import Vkd
from compressc_distill.objectives.wkd_f import WkdF
from features import differences, hold, random_feature, seen_of
from rows import softmax

from compressc.distillation import Loss, parse_loss
from compressc.errors import CompresscError

STUDENT, TEACHER = random_feature(0, 2, 3, 2, 4), random_feature(1, 2, 3, 2, 4)
OF_MAPS = [WkdF(), Pkd(), Cwd(), AttentionTransfer(), Nst()]


def channels(feature):
    """Lists of numbers, `[sample][channel][pixel]`."""
    return feature.flatten(2).tolist()


def wkd_f(r):
    def loss(student, teacher):
        total = 0.0
        for s, t in zip(channels(student), channels(teacher), strict=True):
            for a, b in zip(s, t, strict=True):
                total += r * (fmean(a) - fmean(b)) ** 2 + (pstdev(a) - pstdev(b)) ** 2
        return total / len(student)

    return loss


def pkd(student, teacher):
    """1 - the correlation of each channel."""
    found = []
    for c in range(student.shape[1]):
        a, b = (x[:, c].flatten().tolist() for x in (student, teacher))
        both = fmean(p * q for p, q in zip(a, b, strict=True)) - fmean(a) * fmean(b)
        found.append(1 - both / pstdev(a) / pstdev(b))
    return fmean(found)


def cwd(temperature):
    def loss(student, teacher):
        found = []
        for s, t in zip(channels(student), channels(teacher), strict=True):
            for a, b in zip(s, t, strict=True):
                q, p = (softmax([x / temperature for x in row]) for row in (a, b))
                kl = sum(y * math.log(y / x) for x, y in zip(q, p, strict=True))
                found.append(temperature**2 * kl)
        return fmean(found)

    return loss


def at(student, teacher):
    def unit(rows):
        q = [fmean(x * x for x in pixel) for pixel in zip(*rows, strict=True)]
        length = math.sqrt(sum(x * x for x in q))
        return [x / length for x in q]

    return fmean(
        math.dist(unit(s), unit(t)) ** 2
        for s, t in zip(channels(student), channels(teacher), strict=True)
    )


def nst(student, teacher):
    def units(rows):
        return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]

    def kernel(a, b):
        return fmean(sum(x * y for x, y in zip(p, q, strict=True)) ** 2 for p in a for q in b)

    found = []
    for s, t in zip(channels(student), channels(teacher), strict=True):
        a, b = units(s), units(t)
        found.append(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))
    return fmean(found)


@pytest.mark.parametrize(
    ("objective", "by_definition"),
    [
        (WkdF(), wkd_f(2.0)),
        (WkdF(r=0.5), wkd_f(0.5)),
        (Pkd(), pkd),
        (Cwd(), cwd(1.0)),
        (Cwd(T=3), cwd(3.0)),
        (AttentionTransfer(), at),
        (Nst(), nst),
    ],
    ids=lambda x: getattr(x, "text", ""),
)
def test_of_maps_by_its_definition(objective, by_definition):
    hold(objective, by_definition, STUDENT, TEACHER)


def test_nst_by_either_way_for_few_pixels_and_for_few_channels():
    few_pixels = [random_feature(seed, 2, 5, 1, 3) for seed in (2, 3)]
    hold(Nst(), nst, *few_pixels)
    hold(Nst(), nst, random_feature(4, 2, 2, 2, 2), random_feature(5, 2, 3, 2, 2))


def test_wkd_f_of_parts_of_the_map():
    quarters = [
        wkd_f(2.0)(STUDENT[..., :1, cut], TEACHER[..., :1, cut])
        + wkd_f(2.0)(STUDENT[..., 1:, cut], TEACHER[..., 1:, cut])
        for cut in (slice(0, 2), slice(2, 4))
    ]
    loss = WkdF(grid=2).mean(seen_of([STUDENT], [TEACHER])).item()
    assert loss == pytest.approx(sum(quarters) / 4)


def test_wkd_f_of_maps_of_one_pixel_is_that_of_their_means():
    # a deviation over n - 1 is NaN here
    student, teacher = random_feature(0, 2, 3, 1, 1), random_feature(1, 2, 3, 1, 1)
    want = 2.0 * (student - teacher).pow(2).sum().item() / 2
    moving = student.clone().requires_grad_()
    loss = WkdF().mean(seen_of([moving], [teacher]))
    (slope,) = torch.autograd.grad(loss, moving)
    assert loss.item() == pytest.approx(want)
    torch.testing.assert_close(slope, 2 * (student - teacher))


def test_at_is_the_same_whatever_the_size_of_the_map():
    large = [x.repeat_interleave(3, 2).repeat_interleave(3, 3) for x in (STUDENT, TEACHER)]
    small = AttentionTransfer().mean(seen_of([STUDENT], [TEACHER]))
    torch.testing.assert_close(AttentionTransfer().mean(seen_of(large[:1], large[1:])), small)


def test_wkd_f_fades_in_the_last_third():
    full = WkdF().mean(seen_of([STUDENT], [TEACHER])).item()
    at_progress = {
        p: WkdF().mean(seen_of([STUDENT], [TEACHER], progress=p)).item() / full
        for p in (0.0, 0.6, 5 / 6, 1.0)
    }
    assert at_progress == pytest.approx({0.0: 1, 0.6: 1, 5 / 6: 0.5, 1.0: 0}, abs=1e-9)


@pytest.mark.parametrize("objective", [AttentionTransfer(), Nst()], ids=lambda o: o.name)
def test_channels_may_be_fewer_than_the_teachers(objective):
    definition = {"at": at, "nst": nst}[objective.name]
    hold(objective, definition, random_feature(0, 2, 2, 2, 3), random_feature(1, 2, 4, 2, 3))


@pytest.mark.parametrize("objective", OF_MAPS, ids=lambda o: o.name)
def test_sequences_and_vectors_are_left_out_with_a_reason(objective):
    sequence, vector = random_feature(0, 2, 5, 3), random_feature(0, 2, 3)
    points = [sequence, STUDENT, vector]
    seen = seen_of(points, [sequence + 1, TEACHER, vector + 1])
    skipped = objective.skipped(seen)
    assert set(skipped) == {0, 2}
    assert skipped[0] == "[b, 5, 3] where maps [b, c, h, w] are needed"
    alone = objective.mean(seen_of([STUDENT], [TEACHER]))
    assert torch.equal(objective.mean(seen), alone)
    with pytest.raises(CompresscError, match=r"CC301.*needs maps"):
        objective.check(seen_of([sequence], [sequence]))
    objective.check(seen)


def test_maps_too_small_for_it_are_left_out():
    one = random_feature(0, 2, 3, 1, 1)
    with pytest.raises(CompresscError, match=r"CC301.*a map of one pixel"):
        Cwd().check(seen_of([one], [one]))
    with pytest.raises(CompresscError, match=r"CC301.*a side of 2 cannot be cut into 3"):
        WkdF(grid=3).check(seen_of([STUDENT], [TEACHER]))


@pytest.mark.parametrize("objective", [*OF_MAPS, Hint()], ids=lambda o: o.name)
def test_channels_that_are_dead_on_both_sides_have_a_finite_gradient(objective):
    student, teacher = STUDENT.clone(), TEACHER.clone()
    student[:, 0] = teacher[:, 0] = 0.0
    student.requires_grad_()
    (slope,) = torch.autograd.grad(objective.mean(seen_of([student], [teacher])), student)
    assert torch.isfinite(slope).all()
    assert slope[:, 1].abs().sum() > 0


@pytest.mark.parametrize("objective", [*OF_MAPS, Hint()], ids=lambda o: o.name)
def test_a_batch_twice_is_the_same_loss(objective):
    once = objective.mean(seen_of([STUDENT], [TEACHER]))
    twice = objective.mean(seen_of([STUDENT.repeat(2, 1, 1, 1)], [TEACHER.repeat(2, 1, 1, 1)]))
    torch.testing.assert_close(once, twice)


VALID = torch.tensor([[True, True, False, True], [True, False, False, False]])


def hidden(student, teacher):
    return fmean(
        (a - b) ** 2
        for i in range(2)
        for j in range(4)
        if VALID[i, j]
        for a, b in zip(student[i, j].tolist(), teacher[i, j].tolist(), strict=True)
    )


def hint(student, teacher):
    kept = [x for i in range(2) for j in range(4) if VALID[i, j] for x in teacher[i, j].tolist()]
    return hidden(student, teacher) / pstdev(kept) ** 2


@pytest.mark.parametrize(
    ("objective", "definition"), [(Hidden(), hidden), (Hint(), hint)], ids=["hidden", "hint"]
)
def test_hidden_states_without_the_padding(objective, definition):
    student, teacher = random_feature(0, 2, 4, 3), random_feature(1, 2, 4, 3)
    hold(objective, definition, student, teacher, valid=VALID)
    teacher[~VALID] = 1e6
    hold(objective, definition, student, teacher, valid=VALID)


def test_hidden_refuses_maps():
    with pytest.raises(CompresscError, match=r"CC301.*needs sequences"):
        Hidden().check(seen_of([STUDENT], [TEACHER]))


def made(objective, seen):
    """The module of an objective, in float64."""
    torch.manual_seed(0)
    return objective.module(seen).double()


@pytest.mark.parametrize("widths", [(3, 5), (5, 3), (4, 4)])
def test_vkd_by_its_definition(widths):
    student = random_feature(0, 2, 4, widths[0])
    teacher = random_feature(1, 2, 4, widths[1])
    own = made(Vkd(), seen_of([student], [teacher]))
    weight = own[0].weight.detach()
    small = min(widths)
    gram = weight.T @ weight if widths[0] == small else weight @ weight.T
    torch.testing.assert_close(gram, torch.eye(small).double(), rtol=0, atol=1e-6)

    def definition(student, teacher):
        found = []
        for i in range(2):
            kept = [j for j in range(4) if VALID[i, j]]
            s = [fmean(student[i, j, k].item() for j in kept) for k in range(widths[0])]
            t = [fmean(teacher[i, j, k].item() for j in kept) for k in range(widths[1])]
            deviation = math.sqrt(pstdev(t) ** 2 + 1e-5)
            for k in range(widths[1]):
                image = sum(w * x for w, x in zip(weight[k].tolist(), s, strict=True))
                off = abs(image - (t[k] - fmean(t)) / deviation)
                found.append(off**2 / 2 if off < 1 else off - 0.5)
        return fmean(found)

    hold(Vkd(), definition, student, teacher, own=own, valid=VALID)


def test_vkd_pools_maps_and_takes_vectors():
    own = made(Vkd(), seen_of([STUDENT], [TEACHER]))
    of_maps = Vkd().mean(seen_of([STUDENT], [TEACHER], own=own))
    vectors = [x.mean((2, 3)) for x in (STUDENT, TEACHER)]
    of_vectors = Vkd().mean(seen_of([vectors[0]], [vectors[1]], own=own))
    torch.testing.assert_close(of_maps, of_vectors)
    with pytest.raises(CompresscError, match="CC301"):
        Vkd().check(seen_of([random_feature(0, 2, 3, 2, 2, 2)], [random_feature(0, 2, 3, 2, 2, 2)]))


def test_widths_that_differ_get_a_projector_that_learns():
    student, teacher = random_feature(0, 2, 2, 2, 4), random_feature(1, 2, 3, 2, 4)
    sequences = [random_feature(2, 2, 4, 3), random_feature(3, 2, 4, 3)]
    seen = seen_of([student, sequences[0]], [teacher, sequences[1]])
    own = made(Hint(), seen)
    assert [type(part).__name__ for part in own] == ["Conv2d", "Identity"]
    want = torch.einsum("oc,bchw->bohw", own[0].weight[:, :, 0, 0].detach(), student)
    plain = Hint().mean(seen_of([want, sequences[0]], [teacher, sequences[1]]))
    loss = Hint().mean(seen_of(seen.student.features, seen.teacher.features, own=own))
    torch.testing.assert_close(loss, plain)
    (slope,) = torch.autograd.grad(loss, own[0].weight)

    def by_weight(weight):
        image = torch.einsum("oc,bchw->bohw", weight[:, :, 0, 0], student)
        return Hint().mean(seen_of([image, sequences[0]], [teacher, sequences[1]]))

    torch.testing.assert_close(slope, differences(by_weight, own[0].weight.detach()))
    assert Hint().module(seen_of([teacher], [teacher])) is None


def test_maps_of_other_sizes_are_averaged_to_the_smaller():
    large = random_feature(0, 2, 3, 4, 4)
    small = torch.nn.functional.avg_pool2d(large, 2)
    assert Hint().mean(seen_of([large], [small])).item() == pytest.approx(0, abs=1e-12)
    assert Hint().mean(seen_of([small], [large])).item() == pytest.approx(0, abs=1e-12)


def test_what_a_term_leaves_out_is_told():
    sequence = random_feature(0, 2, 5, 3)
    seen = seen_of([sequence, STUDENT], [sequence, TEACHER])
    loss = Loss(parse_loss("hint + pkd"))
    assert loss.skipped(seen) == [(0, f"no point of pkd: {Pkd().skipped(seen)[0]}")]
