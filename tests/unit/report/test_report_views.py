"""The terminal tables and the HTML report show the record's facts and nothing else's."""

import io
import re
from html.parser import HTMLParser

import pytest
from report_records import digits_record, pass_record

from compressc.backend.file_record import FloatLayer, Int8Layers
from compressc.report import Failure, Note, html, render, write_html
from compressc.report.console import Console
from compressc.tasks.metric import ACCURACY, AGREEMENT, BALANCED

NASTY = "<script>alert('x')</script>[bold]&\"layer\""


def on_terminal(record, width: int, **options) -> str:
    console = Console(width=width, file=io.StringIO(), **options)
    render(record, console)
    return console.file.getvalue()


def scored(record, metrics, teacher, *passes, files=()):
    """The record with other scores: of the teacher, of each pass, of each file."""
    task = record.task.model_copy(update={"metrics": metrics})
    given = {"teacher": record.teacher.model_copy(update={"scores": teacher}), "task": task}
    for part, scores in (("passes", passes), ("files", files)):
        entries = getattr(record, part)[: len(scores)]
        pairs = zip(entries, scores, strict=True)
        given[part] = [entry.model_copy(update={"scores": score}) for entry, score in pairs]
    return record.model_copy(update=given)


def without_labels(record):
    passes = [{"agreement": p.scores["agreement"]} for p in record.passes]
    files = [{"agreement": f.scores["agreement"]} for f in record.files]
    return scored(record, [AGREEMENT["class_scores"]], {}, *passes, files=files)


def nasty(record):
    first = record.passes[0].model_copy(
        update={"name": NASTY, "text": NASTY, "notes": [Note(op=NASTY, text=NASTY)]}
    )
    return record.model_copy(
        update={
            "command": NASTY,
            "passes": [first, *record.passes[1:]],
            "teacher": record.teacher.model_copy(update={"source": NASTY}),
            "files": [record.files[0].model_copy(update={"format": NASTY, "path": NASTY})],
            "failures": [Failure(stage=NASTY, code="", message=NASTY)],
        }
    )


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_fits_and_breaks_no_number(width):
    out = on_terminal(digits_record(), width)
    assert max(map(len, out.splitlines())) <= width
    for row in (
        r"teacher: model.pt +207 k +6.14 M +98.70 ",
        r"prune\(ratio=0.5\) +52.3 k +1.56 M +72.41 \(-26.29\) +72.01 +1.31 s",
        r"distill\(epochs=30\) +52.3 k +1.56 M +98.33 \(-0.37\) +97.93 +cached",
        r"simplify \[for quant\]",
        r"onnx .*829 kB +78.4 kB +10.6x +97.96 +98.33 +max 3.1e-01",
        r"openvino +int8 +256 +1 .*4\.\d\dx \(\d\.\d\d-\d\.\d\d\)",
        r"int8 needs a channel count of 8 or more \(x12\)",
        r"and 4 more",
        r"backend tensorrt: \[CC107\]",
    ):
        assert re.search(row, out), row
    assert ("6 set_layer" in out) == (width == 120)


def test_terminal_without_colour_has_no_escapes_and_can_be_ascii():
    assert "\x1b" not in on_terminal(digits_record(), 80)
    assert "\x1b" in on_terminal(digits_record(), 80, force_terminal=True, color_system="standard")
    plain = on_terminal(digits_record(), 80, force_terminal=True, no_color=True)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", plain)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    render(digits_record(), Console(width=80, file=stream))  # raises where it is not ASCII


def test_terminal_leaves_out_what_was_not_measured():
    out = on_terminal(without_labels(digits_record()), 80)
    assert "accuracy" not in out
    assert "agreement" in out
    bare = digits_record().model_copy(update={"files": [], "failures": [], "passes": []})
    out = on_terminal(bare, 80)
    for absent in ("Files", "Latency", "skipped", "Failed"):
        assert absent not in out
    file = digits_record().files[0].model_copy(update={"proof": None, "teacher_bytes": None})
    out = on_terminal(bare.model_copy(update={"files": [file]}), 80)
    assert re.search(r"pt2 +- +231 kB +- .*not proved", out)


def test_terminal_shows_names_as_they_are():
    out = on_terminal(nasty(digits_record()), 200)
    assert out.count(NASTY) >= 5


class Tags(HTMLParser):
    """Collects tags and attributes, and checks that those which need an end have one."""

    OPTIONAL_END = ("meta", "td", "th", "dt", "dd", "br")

    def __init__(self) -> None:
        super().__init__()
        self.found, self.stack = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.OPTIONAL_END:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def tags_of(page: str) -> list[tuple[str, dict]]:
    parser = Tags()
    parser.feed(page)
    parser.close()
    assert parser.stack == []
    return parser.found


def test_html_is_self_contained(tmp_path):
    write_html(digits_record(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = tags_of(page)
    assert page.startswith("<!doctype html>")
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in tags)
    assert not any(a.keys() & {"src", "href", "onload", "onclick"} for _, a in tags)
    assert not re.search(r"url\(|@import|https?://", page)
    assert sum(tag == "svg" for tag, _ in tags) == 4
    assert "prefers-color-scheme: dark" in page
    for fact in (
        "72.41",
        "-26.29",
        "78.4 kB",
        "10.6x",
        "layer12.conv",
        "2.4e-06",
        "cached",
        "CC107",
        "Example CPU",
        "2026.4.1",
        "2026-11-24 12:00 UTC",
    ):
        assert fact in page, fact


def test_html_escapes_every_name():
    record = nasty(digits_record())
    page = html.html(record)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8
    tags_of(page)


def test_html_of_an_empty_run_and_of_one_without_labels():
    bare = digits_record().model_copy(
        update={"files": [], "failures": [], "passes": [], "data": None}
    )
    page = html.html(bare)
    assert "<svg" not in page
    tags_of(page)
    page = html.html(without_labels(digits_record()))
    assert page.count("<svg") == 4
    tags_of(page)


def test_charts_put_values_where_they_belong():
    record = digits_record()
    page = html.html(record)
    svgs = re.findall(r"<svg.*?</svg>", page, re.S)
    quality, cost, files, latency = svgs
    dots = re.findall(r'<circle class="result" cx="([\d.]+)" cy="([\d.]+)"', quality)
    heights = [float(y) for _, y in dots]
    assert len(dots) == 5
    assert max(heights) == heights[2]  # prune, the worst, is lowest (y grows downwards)
    assert [float(x) for x, _ in dots] == sorted(float(x) for x, _ in dots)
    bars = re.findall(r'<rect class="result".*?height="([\d.]+)"', cost)
    assert float(bars[2]) / float(bars[0]) == pytest.approx(52_300 / 206_922, abs=0.01)
    widths = re.findall(r'<rect class="(teacher|result)".*?width="([\d.]+)"', files)
    by_kind = {kind: float(width) for kind, width in widths}  # of the last, openvino
    assert by_kind["teacher"] / by_kind["result"] == pytest.approx(874 / 161, rel=0.02)
    assert latency.count("<circle") == 18
    for svg in svgs:
        assert not re.search(r"nan|inf", svg.replace("infer", ""))


def test_charts_survive_odd_numbers():
    odd = [
        pass_record("grow", 900_000, 0, 0.0, 0.0),
        pass_record("same", 0, 0, 1.0, 0.0, scores={"agreement": float("nan")}),
    ]
    record = digits_record()
    zero = record.teacher.model_copy(update={"macs": 0})
    page = html.html(record.model_copy(update={"passes": odd, "teacher": zero}))
    assert not re.search(r'"-?(nan|inf)"', page)
    tags_of(page)


def test_import_is_light():
    import subprocess
    import sys

    code = (
        "import sys, compressc.data, compressc.measure, compressc.report;"
        "print([m for m in ('jinja2', 'rich', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_html_says_what_each_file_computes_in_integers():
    left = [FloatLayer(op=f"<b>{i}", reason="its input is float") for i in range(6)]
    record = digits_record()
    assert "in int8" not in html.html(record)  # nothing is known of these files
    pt2, onnx, *others = record.files
    counted = onnx.model_copy(
        update={"int8_layers": Int8Layers(ran=47, of=53, left=left), "needs": "VNNI"}
    )
    page = html.html(record.model_copy(update={"files": [pt2, counted, *others]}))
    assert '<td class="n">47 of 53' in page
    assert page.count('<td class="n">-') >= 1  # a file whose runtime has no integer kernels
    told = "47 of 53 layers in int8; in float: &lt;b&gt;0, &lt;b&gt;1, &lt;b&gt;2, &lt;b&gt;3 and 2"
    assert told in page
    assert "needs VNNI" in page


@pytest.mark.parametrize("width", [80, 120])
def test_many_scores_have_a_table_of_their_own(width):
    metrics = [ACCURACY, BALANCED, AGREEMENT["class_scores"]]
    parts = {"accuracy": 0.95, "balanced_accuracy": 0.8123, "agreement": 0.9}
    record = scored(
        digits_record(), metrics, {"accuracy": 0.98, "balanced_accuracy": 0.9}, parts, files=[parts]
    )
    task = record.task.model_copy(update={"classes": [90, 10], "unequal": True})
    given = {"task": task, "teacher": record.teacher.model_copy(update={"recalls": [1.0, 0.9]})}
    for part in ("passes", "files"):
        (entry,) = getattr(record, part)
        given[part] = [entry.model_copy(update={"recalls": [0.99, 0.4]})]
    out = on_terminal(record.model_copy(update=given), width)
    assert max(map(len, out.splitlines())) <= width
    passes, _, rest = out.partition("\nScores")
    assert "balanced" not in passes
    scores, _, files = rest.partition("\nFiles")
    assert "balanced" not in files
    rows = [line.split() for line in scores.splitlines()]
    assert ["teacher", "98.00", "90.00", "-", "-"] in rows
    wanted = ["95.00", "(-3.00)", "81.23", "(-8.77)", "90.00", "-50.00", "(class", "1)"]
    assert [row for row in rows if row[-8:] == wanted][1] == ["pt2", "file", *wanted]


def test_two_scores_stand_beside_the_sizes():
    assert "\nScores" not in on_terminal(digits_record(), 80)


def with_sensitivity(record, rows):
    first = record.passes[0].model_copy(update={"records": {"sensitivity": rows}})
    return record.model_copy(update={"passes": [first, *record.passes[1:]]})


def test_sensitivity_is_drawn_what_loses_most_on_top():
    row = {"shares": [0.25, 0.5, 0.75], "size": 8}
    rows = [
        {"made by": ["low"], "loss": [0.0, -0.01, 0.02], "kept": 4, **row},
        {"made by": ["high", "b"], "loss": [0.5, None, 4.0], "kept": 8, "what": "heads", **row},
        {"made by": [NASTY], "loss": [0.1, 0.2, 0.3], "kept": 6, **row},
    ]
    page = html.html(with_sensitivity(digits_record(), rows))
    assert NASTY not in page
    picture = page[page.index("What cutting each width alone loses") :]
    picture = picture[: picture.index("</figure>")]
    assert picture.index("high +1, heads") < picture.index("&lt;script") < picture.index(">low<")
    assert picture.count("<circle") == 8  # a loss that is not known is not drawn
    assert "75% cut: 4" in picture
    assert "4 of 8 kept" in picture
    assert ">50%<" in picture
    dots = [float(x) for x in re.findall(r'<circle class="result" cx="([\d.]+)"', picture)]
    assert dots[1] == max(dots)  # the largest rise is furthest to the right


def test_many_widths_are_counted_and_what_is_no_sensitivity_is_not_drawn():
    row = {"shares": [0.5], "loss": [1.0], "size": 8, "kept": 4}
    rows = [{"made by": [f"op{i}"], **row} for i in range(40)]
    assert "and 10 more that lose less" in html.html(with_sensitivity(digits_record(), rows))
    for other in ("text", [], [1, "x", {"size": 3}], {"layer": 2}):
        page = html.html(with_sensitivity(digits_record(), other))
        assert "What cutting each width" not in page
    flat = [{"made by": ["a"], "shares": [0.5], "loss": [0.0], "size": 8, "kept": 8}]
    assert "What cutting each width" in html.html(with_sensitivity(digits_record(), flat))


def with_exits(record, found):
    first = record.passes[0].model_copy(update={"records": {"exits": found}})
    return record.model_copy(update={"passes": [first, *record.passes[1:]]})


@pytest.mark.parametrize("timed", [True, False])
def test_exits_are_drawn_by_what_a_sample_takes(timed):
    points = [
        {"threshold": t, "score": s, "macs": m, "ms": m / 10 if timed else None}
        for t, s, m in ((0.5, 0.9, 1.0), (0.7, 0.95, 4.0), (0.9, 0.98, 9.0))
    ]
    without = {"score": 0.99, "macs": 8.0, "ms": 0.8 if timed else None}
    about = {"title": "accuracy", "samples": 77, "runtime": NASTY if timed else None}
    found = {**about, "without": without, "chosen": points[1], "curve": points}
    page = html.html(with_exits(digits_record(), found))
    assert NASTY not in page
    picture = page[page.index("by threshold (") :]
    picture = picture[: picture.index("</figure>")]
    assert "77 held-out samples" in picture
    assert picture.count("<circle") == 5
    assert ("threshold 0.7: accuracy 0.9500, " + ("0.4 ms" if timed else "4 MACs")) in picture
    dots = re.findall(r'<circle class="result" cx="([\d.]+)" cy="([\d.]+)"', picture)
    across, down = zip(*((float(x), float(y)) for x, y in dots), strict=True)
    assert list(across) == sorted(across)  # what takes longer is further to the right
    assert list(down) == sorted(down, reverse=True)  # what is better is higher up


def test_what_is_no_record_of_exits_is_not_drawn():
    for other in ("text", [], {"title": "accuracy", "curve": []}, None):
        assert "by threshold (" not in html.html(with_exits(digits_record(), other))
