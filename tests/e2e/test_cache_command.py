"""`compressc cache`: what is shown, what goes, and that nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressc.cli import main
from compressc.cli.cache import age_text, bytes_text, parse_size


@pytest.fixture(scope="module")
def kept(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with two results of one pass, and a file of somebody else."""
    import compressc

    folder = tmp_path_factory.mktemp("cache")
    for ratio in (0.25, 0.5):
        compressc.compile(str(teacher), f"prune(ratio={ratio})", data="digits", cache=folder)
    (folder / "thesis.txt").write_text("mine")
    return folder


def say(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["cache", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_it_shows_limits_and_clears(
    kept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("COMPRESSC_CACHE", str(kept))
    sizes = [
        sum(f.stat().st_size for f in entry.iterdir()) for entry in kept.iterdir() if entry.is_dir()
    ]
    out = say(capsys)
    assert "prune(ratio=0.25)" in out
    assert "prune(ratio=0.5)" in out
    assert f"kept 2 results, {bytes_text(sum(sizes))} of 10.0 GB" in out
    out = say(capsys, "--limit", max(sizes))
    assert "removed 1 result" in out
    assert "prune(ratio=0.25)" not in out  # the older one
    assert "prune(ratio=0.5)" in out
    assert f" of {bytes_text(max(sizes))}" in say(capsys)  # it is remembered
    assert "kept 0 results, 0 bytes" in say(capsys, "--clear")
    assert (kept / "thesis.txt").read_text() == "mine"
    assert not [entry for entry in kept.iterdir() if entry.is_dir()]


def test_a_cache_that_is_not_there_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "kept 0 results" in say(capsys, "--cache", tmp_path / "none", "--clear")
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["cache", "--cache", str(tmp_path / "file"), "--limit", "1GB"]) == 7
    assert capsys.readouterr().err.startswith("[CC600] the folder of the cache can be written")


@pytest.mark.parametrize(
    ("text", "size"),
    [("10GB", 10**10), ("1.5 GiB", 1610612736), ("500 mb", 5 * 10**8), ("7", 7), ("2k", 2000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "1e9", "i", "3 i", "nan"])
def test_what_is_no_size(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", f"--limit={text}"]) == 2
    assert capsys.readouterr().err.startswith("[CC100] a size is written")


def test_words() -> None:
    assert [bytes_text(n) for n in (999, 1000, 1_234_567, 10**10)] == [
        *("999 bytes", "1.0 kB", "1.2 MB", "10.0 GB")
    ]
    assert [age_text(s) for s in (0, 1, 59, 3600, 200_000)] == [
        *("now", "1 second ago", "59 seconds ago", "1 hour ago", "2 days ago")
    ]
