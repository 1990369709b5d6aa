"""What the command line makes of whatever its commands raise: one line and an exit code."""

import errno
import os
import subprocess
import sys

import pytest

from compressc import cli
from compressc.cli import app as application
from compressc.errors import CompresscError
from compressc.scratch import scratch


def outcome(monkeypatch, capsys, raised: BaseException) -> tuple[int, str]:
    def command(*args, **options):
        raise raised

    monkeypatch.setattr(application, "app", command)
    monkeypatch.setattr(application, "with_default", lambda arguments: arguments)
    code = cli.main([])
    error = capsys.readouterr().err
    assert error.count("\n") == (1 if error else 0)
    assert len(error) < 1000
    return code, error


@pytest.mark.parametrize(
    ("raised", "code", "begins"),
    [
        (CompresscError("CC103", "x"), 2, "[CC103]"),
        (CompresscError("CC205", "x"), 3, "[CC205]"),
        (CompresscError("CC300", "x"), 4, "[CC300]"),
        (CompresscError("CC403", "x"), 5, "[CC403]"),
        (CompresscError("CC505", "x"), 6, "[CC505]"),
        (CompresscError("CC601", "x"), 7, "[CC601]"),
        (OSError(errno.ENOSPC, "No space left on device"), 7, "[CC600]"),
        (ValueError("a mistake\nof ours" + "!" * 5000), 70, "[internal] ValueError: a mistake;"),
        (OSError(errno.ENOENT, "No such file"), 70, "[internal] FileNotFoundError"),
        (SystemExit(0), 70, "[internal] SystemExit: 0"),
        (GeneratorExit(), 70, "[internal] GeneratorExit"),
        (KeyboardInterrupt(), 130, "interrupted; "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value)[:12],
)
def test_exit_codes(monkeypatch, capsys, raised, code, begins):
    monkeypatch.setattr(cli, "_discard_output", lambda: None)
    found, error = outcome(monkeypatch, capsys, raised)
    assert found == code
    assert error.startswith(begins)


def test_a_command_that_typer_ended_at_ctrl_c_says_so(monkeypatch, capsys):
    monkeypatch.setattr(application, "app", lambda *args, **options: 130)
    monkeypatch.setattr(application, "with_default", lambda arguments: arguments)
    assert cli.main([]) == 130
    assert capsys.readouterr().err.startswith("interrupted; ")


def test_temporary_files_are_in_a_folder_that_goes(monkeypatch, capsys, tmp_path):
    import tempfile

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "compressc-dead").mkdir()
    seen = []

    def command(*args, **options):
        seen.extend([tempfile.mkdtemp(), os.environ["TMPDIR"]])
        assert not (tmp_path / "compressc-dead").exists()

    monkeypatch.setattr(application, "app", command)
    monkeypatch.setattr(application, "with_default", lambda arguments: arguments)
    with scratch(tmp_path, "compressc-") as other:
        assert cli.main([]) == 0
        assert list(tmp_path.iterdir()) == [other], "that of another living run stays"
    assert os.path.dirname(seen[0]) == seen[1]
    assert seen[1].startswith(str(tmp_path / "compressc-"))
    assert os.environ["TMPDIR"] == str(tmp_path) == tempfile.gettempdir()
    assert not capsys.readouterr().err


def test_no_temporary_folder(monkeypatch, capsys):
    import tempfile

    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(application, "with_default", lambda arguments: arguments)
    assert cli.main([]) == 7
    assert capsys.readouterr().err.startswith("[CC600] a temporary folder can be written")


MODULE = [sys.executable, "-m", "compressc", "passes"]


@pytest.mark.slow
def test_streams_that_are_closed_full_or_of_another_encoding():
    def shell(redirect: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'exec "$@" {redirect}', "sh", *MODULE]
        environment = os.environ | env
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, errors="replace"
        )

    assert (shell("2>&-").returncode, shell(">&-").returncode) == (0, 0)
    assert shell("0<&- 1>&- 2>&-").returncode == 0
    full = shell(">/dev/full")
    assert full.returncode == 7
    assert full.stderr.startswith("[CC600]")
    assert full.stderr.count("\n") == 1
    for encoding in ("ascii", "latin-1"):
        odd = shell("", PYTHONIOENCODING=encoding, LC_ALL="C")
        assert (odd.returncode, odd.stderr) == (0, "")
        assert "prune" in odd.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m.pt2", "--threads", "0"], "'--threads': Input should be greater"),
        (["m.pt2", "--seed", "x"], "'--seed': Input should be a valid integer"),
        (["m.pt2", "-o", ""], "'--output' / '-o': the folder's name is empty"),
        (
            ["m.pt2", "--pases", "prune"],
            "No such option: --pases (Possible options: --batches, --passes",
        ),
        (["compile"], "Missing argument 'model'"),
        (["inspct", "m.pt2"], "did you mean 'inspect'?"),
    ],
)
def test_a_wrong_option_is_named(capsys, arguments, words):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("[CC100] ")
    assert error.count("\n") == 1
    assert words in error


def test_no_argument_at_all_shows_the_help(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr()
    assert "inspect" in shown.out
    assert not shown.err
