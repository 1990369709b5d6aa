"""Docs that are run: every command, every link, and a reference that is what the code says."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from compressc.cli import main
from compressc.errors import CODES
from compressc.events import KINDS
from compressc.pipeline import load_pass
from compressc.plugins import PASSES, TASKS, find
from compressc.report import Record

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages whose commands run as a newcomer runs them, each in a process of its own.
FIRST = [ROOT / page for page in ("README.md", "docs/tutorial.md")]
RUN = FIRST + [
    ROOT / f"docs/howto-{topic}.md"
    for topic in (
        "inspect",
        "coverage",
        "watch",
        "prune",
        "distill",
        "families",
        "language-models",
        "tasks",
        "lowrank",
        "quant",
        "deploy",
        "study",
    )
]
MAKE = re.compile(r"^make \w+")
#: `diff` exits with 1 where it finds something, as diff does.
FINE = {"diff": (0, 1)}


def commands(page: Path) -> list[str]:
    """Lines after `$` in a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def snippets(page: Path) -> list[str]:
    """A page's Python blocks."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with `model.pt`, and `.venv/bin` as the docs write it."""
    place = tmp_path_factory.mktemp("user")
    (place / "model.pt").symlink_to(teacher)
    (place / "examples").symlink_to(ROOT / "examples")
    (place / ".venv").symlink_to(sys.prefix)
    return place


@pytest.mark.parametrize("page", RUN, ids=lambda p: p.name)
def test_every_command_runs(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make` commands are checked against the Makefile: this very test is run by one of them."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    monkeypatch.chdir(folder)
    found = commands(page)
    assert found
    for command in found:
        if MAKE.match(command):
            assert command.split()[1] in targets
            continue
        code, said = run(shlex.split(command), alone=page in FIRST, capsys=capsys)
        assert code in FINE.get(command.split()[1], (0,)), f"{command}\n{said}"


def run(words: list[str], *, alone: bool, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error: of a process of its own, or of this one, which has imported."""
    if alone or words[0] != ".venv/bin/compressc":
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr
    code = main(words[1:])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "docs/tutorial.md", ROOT / "docs/howto-watch.md"],
    ids=lambda p: p.name,
)
def test_every_snippet_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for i, code in enumerate(snippets(page)):
        script = folder / f"snippet{i}.py"
        script.write_text(code)
        runpy.run_path(str(script), run_name="__main__")


def test_every_file_is_loaded_as_the_howto_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after another, as they are read.

    What takes a model of the reader's own is left out, and a package that takes half a minute to
    be compiled: tests/unit/backend/test_backend_aotinductor.py loads one.
    """
    page = ROOT / "docs/howto-deploy.md"
    monkeypatch.chdir(folder)
    if not (folder / "out/openvino").exists():
        assert main(shlex.split(commands(page)[0])[1:]) == 0
    without = ("MyNet", "AutoModel", "aoti_load_package")
    found = [code for code in snippets(page) if not any(name in code for name in without)]
    assert len(found) == 4
    (folder / "loading.py").write_text("\n".join(found))
    answers = runpy.run_path(str(folder / "loading.py"))["logits"]
    assert answers.shape == (1, 10)


@pytest.mark.slow
def test_every_form_of_data_of_the_howto_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that begin with the name of a file are that file; the others run, then commands."""
    page = ROOT / "docs/howto-data.md"
    monkeypatch.chdir(folder)
    scripts = []
    for i, code in enumerate(snippets(page)):
        named = re.match(r"# (\w+\.py)\n", code)
        script = folder / (named[1] if named else f"data{i}.py")
        script.write_text(code)
        scripts += [] if named else [script]
    for script in scripts:
        runpy.run_path(str(script), run_name="__main__")
    found = commands(page)
    assert len(found) > 6
    for command in found:
        program, *arguments = shlex.split(command)
        assert program == ".venv/bin/compressc"
        assert main(arguments) == 0, command  # in this process, where libraries are imported


def test_pass_of_the_howto_runs(teacher: Path, tmp_path: Path) -> None:
    """The page's own class, not a copy of it."""
    import compressc

    (code, *_) = snippets(ROOT / "docs/howto-write-a-pass.md")
    (tmp_path / "howto_pass.py").write_text(code)
    made = runpy.run_path(str(tmp_path / "howto_pass.py"))["Truncate"]
    compiled = compressc.compile(str(teacher), [made(bits=6)], data="digits")
    assert compiled.passes[0].edits["set_layer"] > 5
    assert compiled.report.passes[0].agreement >= 0.98  # type: ignore[operator]


def test_task_of_the_howto_runs(teacher: Path, tmp_path: Path) -> None:
    """The page's own class: at no smoothing it is plain cross entropy."""
    import torch
    from torch.nn import functional as F

    from compressc.tasks import load_task

    (code, *_) = snippets(ROOT / "docs/howto-tasks.md")
    (tmp_path / "mine.py").write_text(code)
    rows, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, -100, 0])
    plain = F.cross_entropy(rows, labels, ignore_index=-100)
    for amount, equal in ((0.0, True), (0.2, False)):
        task = load_task(f"{tmp_path / 'mine.py'}:Smoothed(amount={amount})")
        loss = task.row_loss(None, rows, labels)  # type: ignore[attr-defined]
        assert torch.isclose(loss, plain) == equal


def test_importance_of_the_howto_is_one(tmp_path: Path) -> None:
    """The page's own class: the largest weight of each index, the mean over layers."""
    import torch

    from compressc.importance import Member, Together

    (code,) = snippets(ROOT / "docs/howto-prune.md")
    (tmp_path / "mine.py").write_text(code)
    largest = runpy.run_path(str(tmp_path / "mine.py"))["Largest"]()
    rows = torch.tensor([[1.0, -5.0], [2.0, 0.0]])
    members = tuple(Member(name, "makes", "linear", rows) for name in "ab")
    score = largest.score(Together(2, members, torch.Generator()))
    assert score.tolist() == [5.0, 2.0]


def test_objective_of_the_howto_is_one(tmp_path: Path) -> None:
    """The page's own class: half a square near 0, a straight line far from it."""
    import torch

    from compressc.distillation import Readings, Seen
    from compressc.testing import check_objective

    (code,) = snippets(ROOT / "docs/howto-distill.md")
    (tmp_path / "mine.py").write_text(code)
    huber = runpy.run_path(str(tmp_path / "mine.py"))["Huber"](delta=2.0)
    check_objective(huber)
    rows = Readings(torch.tensor([[1.0, 5.0]]))
    value = huber.mean(Seen(rows, Readings(torch.zeros(1, 2))))
    assert value.item() == (0.5 + 2 * (5 - 1)) / 2


def test_the_table_of_tasks_has_every_task() -> None:
    page = (ROOT / "docs/howto-tasks.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    ours = {n for n, p in find(TASKS).items() if p.dist is not None and p.dist.name == "compressc"}
    assert set(rows) == ours


def test_reference_is_what_the_code_says() -> None:
    generate = runpy.run_path(str(ROOT / "docs/generate.py"))
    for name, text in generate["pages"]().items():
        assert (ROOT / "docs/reference" / name).read_text() == text, "run `make docs`"


def test_the_figures_of_the_readme_are_those_of_the_record() -> None:
    """tests/e2e holds the record against a run."""
    text, shown = (ROOT / "README.md").read_text(), Record.read(ROOT / "docs/demo.json")
    generate = runpy.run_path(str(ROOT / "docs/generate.py"))
    assert generate["readme"](text) == text, "run `make docs`"
    assert generate["readme"](text.replace("Files, beside", "Files, besides")) == text
    assert f"`{shown.command}`, which takes a minute or two and prints" in text
    assert shown.wall_seconds < 120
    assert shown.command in (ROOT / "Makefile").read_text().replace("$(BIN)/", "")


def test_the_sentences_of_the_readme_say_what_the_tables_do() -> None:
    text, shown = (ROOT / "README.md").read_text(), Record.read(ROOT / "docs/demo.json")
    found = re.search(r"anew make that ([\d.]+) %,\nand `distill` ([\d.]+) %, as many", text)
    assert found is not None
    right = {entry.name: entry.accuracy for entry in shown.passes}
    assert found.groups() == tuple(f"{100 * (right[p] or 0):.1f}" for p in ("prune", "distill"))
    assert (right["distill"] or 0) >= (shown.teacher.accuracy or 1)
    at_one = [x for file in shown.files for x in file.latency if x.batch == 1]
    slower = {entry.runtime for entry in at_one if entry.verdict == "slower"}
    assert slower == {"PyTorch"}  # "is slower at batch 1"
    zoo = re.findall(r"^\| (?!model )[a-z]", (ROOT / "docs/zoo.md").read_text(), re.MULTILINE)
    assert f"| {len(zoo)} architectures" in text


def test_every_own_pass_is_documented() -> None:
    text = (ROOT / "docs/reference/passes.md").read_text()
    for name, point in find(PASSES).items():
        if point.dist is not None and point.dist.name == "compressc":
            assert f"## {name}" in text
            fields = load_pass(name).model_fields.values()
            assert all(field.description for field in fields), f"an option of {name} has no text"


def test_every_error_code_is_used_and_every_used_code_is_listed() -> None:
    sources = [p.read_text() for d in ("compressc", "plugins") for p in (ROOT / d).rglob("*.py")]
    used = set(re.findall(r'"(CC\d{3})"', "\n".join(s for s in sources if "CODES: dict" not in s)))
    assert used <= set(CODES)
    assert set(CODES) <= used, f"never raised: {sorted(set(CODES) - used)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_table_of_events_has_every_event_and_fact() -> None:
    page = (ROOT / "docs/howto-watch.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", page, re.MULTILINE))
    assert rows == {kind: " ".join(facts.split()) for kind, facts in KINDS.items()}
