"""The command `compile`: each option reaches the library, and the gate judges what came of it."""

import json
from pathlib import Path

import pytest

import compressc
from compressc.cli import main
from compressc.errors import CompresscError
from compressc.events import Event
from compressc.gate import Gate
from compressc.report import Failure
from compressc.target import Target
from tests.unit.report.report_records import digits_record


class Library:
    """In place of `compressc.compile`: keeps what it was called with, and has a record at hand."""

    def __init__(self):
        self.given = {}
        self.record = digits_record().model_copy(update={"failures": []})
        self.raises = None

    def __call__(self, model, passes, **options):
        self.given = {"model": model, "passes": passes, **options}
        if self.raises is not None:
            raise self.raises
        return self

    def save(self, folder, tell):
        self.given["folder"] = folder
        return self.record


@pytest.fixture
def library(monkeypatch, tmp_path):
    found = Library()
    monkeypatch.setattr(compressc, "compile", found)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ([], "model", "m.pt"),
        ([], "passes", "prune,quant"),
        ([], "folder", Path("out")),
        (["-o", "a/b"], "folder", Path("a/b")),
        (["--seed", "7"], "seed", 7),
        (["--data", "digits"], "data", "digits"),
        (
            ["--input", "x: f32[b,3]", "--input", "y: f32[b]"],
            "inputs",
            ["x: f32[b,3]", "y: f32[b]"],
        ),
        (["--judged", "logits"], "judged", "logits"),
        (["--factory", "m:f"], "factory", "m:f"),
        (["--state-key", "ema"], "state_key", "ema"),
        (["--ignore-extra"], "ignore_extra", True),
        (["--trust-pickle"], "trust_pickle", True),
        ([], "trust_pickle", False),
        (["--dtype", "keep"], "dtype", "keep"),
        ([], "cache", "default"),
        (["--cache", "c"], "cache", Path("c")),
        (["--cache", "c", "--no-cache"], "cache", None),
        ([], "checkpoint_every", 60.0),
        (["--checkpoint-every", "0.5"], "checkpoint_every", 0.5),
        (["--strict"], "gate", Gate(strict=True)),
        (["--max-drop", "0.25"], "gate", Gate(0.25)),
        (["--emit", "onnx, pt2", "--threads", "3"], "target", Target(("onnx", "pt2"), threads=3)),
        (["--batches", "2,5"], "target", Target(batches=(2, 5))),
        (["--batches", ""], "target", Target(batches=())),
        (["--instruction-set", "avx2"], "target", Target(instruction_set="avx2")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_option_reaches_the_library(library, words, name, value):
    assert main(["m.pt", "--passes", "prune,quant", "-q", *words]) == 0
    assert library.given[name] == value


def test_the_report_is_shown_unless_it_is_not_wanted(library, capsys):
    assert main(["m.pt", "-p", "quant", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["m.pt", "-p", "quant"]) == 0
    assert "wrote out/: manifest.json" in capsys.readouterr().out


def test_what_did_not_come_about_is_an_exit_code_and_the_files_stay(library, capsys):
    failure = Failure(stage="latency of onnx at batch 1", code="CC601", message="it fell over")
    library.record = library.record.model_copy(update={"failures": [failure]})
    assert main(["m.pt", "-p", "quant", "-q"]) == 8
    assert "it fell over" in capsys.readouterr().err
    assert Path("out").is_dir()


def test_a_file_that_lost_too_much_is_an_exit_code(library, capsys):
    """Each file has half of the teacher's score."""
    score = library.record.teacher.scores["accuracy"]
    files = [f.model_copy(update={"scores": {"accuracy": score / 2}}) for f in library.record.files]
    library.record = library.record.model_copy(update={"files": files})
    assert main(["m.pt", "-p", "quant", "-q", "--max-drop", str(0.51 * score)]) == 0
    assert main(["m.pt", "-p", "quant", "-q", "--max-drop", str(0.49 * score)]) == 6
    assert capsys.readouterr().err.startswith("[CC505]")


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_fails_takes_back_the_folder_that_it_made(library, there):
    library.raises = CompresscError("CC200", "a model")
    if there:
        Path("a/b").mkdir(parents=True)
    assert main(["m.pt", "-p", "quant", "-q", "-o", "a/b"]) == 3
    assert Path("a").exists() == there


@pytest.mark.parametrize(
    "words",
    [["--emit", " , "], ["--batches", "1,x"], ["--batches", "0"], ["--threads", "0"], ["-o", ""]],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_refused_before_any_work(library, words, capsys):
    assert main(["m.pt", "-p", "quant", *words]) == 2
    assert not library.given
    assert capsys.readouterr().err.startswith("[CC100]")


def test_events_are_logged_and_a_log_that_fails_is_said_at_the_end(library, tmp_path, capsys):
    def save(folder, tell):
        tell(Event("file", {"format": "onnx"}))
        tell(Event("done", {"seconds": 1.0}))
        return library.record

    library.save = save
    assert main(["m.pt", "--passes", "quant", "-q", "--events", "run.jsonl"]) == 0
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["file", "done"]
    if not Path("/dev/full").exists():
        pytest.skip("no device that is full")
    assert main(["m.pt", "--passes", "quant", "-q", "--events", "/dev/full"]) == 8
    assert "[CC700] --events hears of all events" in capsys.readouterr().err
