"""Signals end a command with one line and its exit code, whatever runs; folders go with it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

#: `python -m compressc` up to the point where commands are imported, then the code of a test.
START = """
    import sys
    from pathlib import Path
    import compressc
    from compressc import interruption
    interruption.end_at_signals(), interruption.watch_native_code()
"""


def interrupted(code: str, number: int, folder: Path) -> tuple[int, str, float]:
    """Run the code, send it a signal once it has said `ready`: exit code, stderr, seconds."""
    script = textwrap.dedent(START) + textwrap.dedent(code)
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n", run.communicate()[1]
    start = time.monotonic()
    run.send_signal(number)
    _, error = run.communicate(timeout=60)
    return run.returncode, error, time.monotonic() - start


LINES = {
    signal.SIGINT: (130, "interrupted; "),
    signal.SIGTERM: (143, "terminated; "),
    signal.SIGHUP: (129, "hung up; "),
}
WORK = {
    "code that swallows everything": """
        print("ready", flush=True)
        while True:
            try:
                while True: pass
            except BaseException:
                pass
    """,
    "a library that does not come back": """
        import hashlib
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 40_000_000)  # native, without Python's lock
    """,
    "a destructor": """
        class Slow:
            def __del__(self):
                print("ready", flush=True)
                while True: pass
        Slow()
    """,
    "an import": """
        Path("slow_module.py").write_text("print('ready', flush=True)\\nwhile True: pass")
        sys.path.insert(0, ".")
        try:
            import slow_module
        except BaseException as error:
            raise ImportError("somebody else's fault") from error
    """,
}


@pytest.mark.parametrize("what", WORK)
def test_ctrl_c_at_any_work(tmp_path, what):
    folder = """
        Path("made").mkdir(); Path("made/file").write_text("x")
        interruption.UNFINISHED.add("made")
    """
    code, error, seconds = interrupted(
        textwrap.dedent(folder) + textwrap.dedent(WORK[what]), signal.SIGINT, tmp_path
    )
    assert code == 130
    assert error.startswith("interrupted; "), error
    assert error.count("\n") == 1, error
    assert seconds < 2
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("number", LINES)
def test_each_signal_has_its_exit_code_and_its_word(tmp_path, number):
    code, error, _ = interrupted(WORK["code that swallows everything"], number, tmp_path)
    assert code == LINES[number][0] == 128 + number
    assert error.startswith(LINES[number][1])
    assert error.count("\n") == 1


def test_what_must_be_whole_is_finished_first(tmp_path):
    code, error, _ = interrupted(
        """
        import time
        with interruption.held_back():
            with interruption.held_back():
                print("ready", flush=True)
                end = time.monotonic() + 1
                while time.monotonic() < end: pass
            Path("whole").touch()
        Path("after").touch()
        """,
        signal.SIGTERM,
        tmp_path,
    )
    assert (code, error.count("\n")) == (143, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_child_ends_without_a_word_and_takes_nothing_along(tmp_path):
    code, error, _ = interrupted(
        """
        import os, signal, time
        Path("made").mkdir()
        interruption.UNFINISHED.add("made")
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, b"up")
            time.sleep(60)
            os._exit(0)
        os.read(read, 2)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 143
        assert Path("made").exists()
        print("ready", flush=True)
        time.sleep(60)
        """,
        signal.SIGINT,
        tmp_path,
    )
    assert (code, error.count("\n")) == (130, 1), error


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    """`nohup compressc ...` must outlive its terminal."""
    script = "import os, signal; from compressc import interruption; "
    script += "interruption.end_at_signals(); os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "alive\n"


def test_a_program_that_imports_compressc_keeps_its_handlers():
    script = "import signal, compressc; print(signal.getsignal(signal.SIGINT).__name__)"
    script += "; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["default_int_handler", "True"]


@pytest.mark.parametrize("argv", [["/usr/bin/compressc", "m.pt2"], ["-m"]])
def test_the_command_is_told_by_how_it_was_started(monkeypatch, argv):
    from compressc.interruption import is_command

    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "compressc", "m.pt2"])
    assert is_command()
    monkeypatch.setattr(sys, "argv", ["script.py"])
    assert not is_command()


MODULE = [sys.executable, "-m", "compressc"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_run_at_many_moments(teacher, tmp_path, number):
    """From the first import of ours to the epochs: always the line, the code, nothing left."""
    env = os.environ | {"COMPRESSC_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    command = [*MODULE, str(teacher), "-p", "distill(epochs=500)", "--data", "digits"]
    for moment in range(24):
        run = subprocess.Popen(
            [*command, "-o", str(tmp_path / "out")], env=env, stderr=subprocess.PIPE, text=True
        )
        time.sleep(0.4 + 0.3 * moment)
        start = time.monotonic()
        run.send_signal(number)
        _, error = run.communicate(timeout=60)
        assert run.returncode == 128 + number, error
        assert error.startswith(LINES[number][1]), error
        assert error.count("\n") == 1, error
        assert time.monotonic() - start < 4  # 2 s, and as much for a machine that is busy
        assert not (tmp_path / "out").exists()
        assert list((tmp_path / "tmp").iterdir()) == []
        assert not list((tmp_path / "cache").glob(".*"))
