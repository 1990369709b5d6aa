"""Which order of passes is best for a model: all of them measured, as far as time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import mean

from compressc.errors import CompresscError
from compressc.pipeline import Pass, check_order, parse_passes
from compressc.report.study_record import Column, Line, Picture, Row, StudyRecord, Table
from compressc.spec import split_top_level
from compressc.study.running import Study, scores_of

#: More passes have too many orders to be told apart.
MOST = 6


@dataclass
class Ordered:
    """One order: runs by seed, as far as they were done.

    Attributes:
        text: the passes.
        against: what the passes have against it; "" for an order that a run may have.
        failed: what went wrong.
    """

    text: str
    against: str
    score: list[float | None]
    agreement: list[float | None]
    parameters: list[float | None]
    macs: list[float | None]
    failed: str = ""


def order(
    study: Study,
    passes: str,
    budget: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> StudyRecord:
    """Measure the orders of some passes, that of `passes` first, then those that a run may have.

    Orders that the passes speak against are measured, too: that is what their reasons are worth.

    Args:
        study: the model, its data and the seeds.
        passes: two to six.
        budget: seconds after which no further run begins; None for all of them.
        clock: for tests.

    Raises:
        CompresscError: CC100 for fewer passes, or more.
    """
    texts = [text.strip() for text in split_top_level(passes)]
    if not 2 <= len(texts) <= MOST:
        raise CompresscError("CC100", f"2 to {MOST} passes have orders", got=str(len(texts)))
    asked = list(orders(texts))
    began, found = clock(), list[Ordered]()
    for text, against in asked:
        if found and budget is not None and clock() - began > budget:
            break
        found.append(_measured(study, text, against))
    return study.record("order", follows(found, len(asked)), [_table(found)], _pictures(found))


def orders(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(passes, what they have against that order), the given order first, then those without."""
    every = list(dict.fromkeys(permutations(texts)))
    judged = [(",".join(one), _against(parse_passes(list(one)))) for one in every]
    yield judged[0]
    yield from sorted(judged[1:], key=lambda pair: bool(pair[1]))


def _against(passes: Sequence[Pass]) -> str:
    try:
        check_order(passes)
    except CompresscError as error:
        return f"{error.wanted}: {error.hint}"
    return ""


def _measured(study: Study, text: str, against: str) -> Ordered:
    found = Ordered(text, against, [], [], [], [])
    for seed in study.seeds:
        try:
            report = study.run(text, seed, any_order=True).report
        except CompresscError as error:
            if not against:
                raise
            found.failed = f"fails: {error.wanted}"
            break
        score, agreement = scores_of(report)
        last, teacher = report.passes[-1], report.teacher
        found.score.append(score)
        found.agreement.append(agreement)
        found.parameters.append(last.parameters / teacher.parameters)
        found.macs.append(last.macs / teacher.macs if teacher.macs else None)
    return found


def follows(found: Sequence[Ordered], every: int) -> list[str]:
    """What the figures say."""
    texts = [f"{len(found)} of {every} orders were measured"]
    if len(found) < every:
        texts[0] += ": there was no time for the others (--budget)"
    done = [(mean(s for s in one.score if s is not None), one) for one in found if not one.failed]
    if len(done) < 2:
        return texts
    (high, best), (low, worst) = (pick(done, key=lambda pair: pair[0]) for pick in (max, min))
    spread = max(max(map(_or_zero, o.score)) - min(map(_or_zero, o.score)) for _, o in done)
    text = f"highest score: {best.text}, {high:.2%}; lowest: {worst.text}, {low:.2%}; "
    if len(best.score) == 1:
        texts.append(f"{text}one seed tells of no spread")
    else:
        text += f"seeds of one order lie up to {spread:.2%} apart"
        texts.append(text if high - low > spread else f"{text}: no order stands out")
    legal = [pair for pair in done if not pair[1].against]
    if legal and best.against:
        mine = max(legal, key=lambda pair: pair[0])
        verdict = "beyond the seeds" if high - mine[0] > spread else "within the seeds"
        text = f"the highest is one that the passes speak against ({best.against}); {mine[1].text} "
        texts.append(f"{text}has {mine[0]:.2%}, {verdict}")
    texts += [f"{one.text} {one.failed}" for one in found if one.failed]
    return texts


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None else value


def _table(found: Sequence[Ordered]) -> Table:
    names = (
        ("score", "score"),
        ("agreement", "agreement"),
        ("parameters", "parameters left"),
        ("macs", "MACs left"),
    )
    columns = [Column(name=name, title=title) for name, title in names]
    rows = [
        Row(
            name=one.text,
            figures={name: getattr(one, name) for name, _ in names},
            remark="; ".join(filter(None, (one.failed, one.against))),
        )
        for one in found
    ]
    return Table(title="By order, on the test part", head="passes", columns=columns, rows=rows)


def _pictures(found: Sequence[Ordered]) -> list[Picture]:
    done = [one for one in found if not one.failed]
    lines = [
        Line(name=name, x=[getattr(one, name) for one in done], y=[], colour=colour)
        for colour, name in enumerate(("score", "agreement"))
    ]
    title = "Score and agreement by order"
    names = [one.text for one in done]
    return [Picture(title=title, form="rows", x="share", x_unit="%", lines=lines, names=names)]
