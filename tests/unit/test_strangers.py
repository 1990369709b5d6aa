"""What strangers wrote: kinds of files, failures of libraries, texts of any length and content."""

import os
import pickle
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressc.errors import CODES, LONGEST, CompresscError, first_line
from compressc.strangers import reading, regular_file


def got(path, **options) -> str:
    with pytest.raises(CompresscError) as caught:
        regular_file(path, "CC300", "the file exists", **options)
    assert caught.value.code == "CC300"
    return caught.value.got


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
    assert regular_file(tmp_path / "link", "CC300", "x") == 5
    assert regular_file(tmp_path / "file", "CC300", "x", most=5) == 5
    assert got(tmp_path / "file", most=4) == "5 bytes, more than 4"
    assert got(tmp_path) == "a folder"
    assert got(tmp_path / "pipe") == "a pipe"
    assert got(tmp_path / "socket") == "a socket"
    assert got(tmp_path / "nowhere") == "a link to nothing"
    assert got(tmp_path / "none") == "no such file"
    assert got(tmp_path / "loop") == "Too many levels of symbolic links"
    assert got(tmp_path / ("x" * 300)) == "File name too long"
    assert got(tmp_path / "a\0b") == "embedded null byte"
    assert got(type(tmp_path)("/dev/zero")) == "a device"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("no\nroom"), "MemoryError: no"),
        (RecursionError("deep"), "RecursionError: deep"),
        (RuntimeError(), "RuntimeError"),
        (AssertionError("x"), "AssertionError: x"),
        (SystemExit(2), "SystemExit: 2"),
        (type("Skipped", (BaseException,), {})("not here"), "Skipped: not here"),
    ],
)
def test_whatever_a_library_raises_is_one_error(error, line):
    with pytest.raises(CompresscError) as caught, reading("CC403", "a bundle", "b/", "write it"):
        raise error
    assert caught.value.code == "CC403"
    assert caught.value.got == line
    assert caught.value.__cause__ is error


def test_our_own_errors_and_interruptions_pass():
    ours = CompresscError("CC300", "x")
    for error in (ours, KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, reading("CC403", "a bundle", "b/"):
            raise error
        assert caught.value is error


def test_an_exception_without_a_text_has_a_line():
    class Broken(Exception):
        def __str__(self):
            raise ValueError("no")

    assert first_line(Broken()) == "Broken: no text, ValueError"
    assert first_line(ValueError("\n\n  a\nb")) == "ValueError: a"
    assert first_line(ValueError()) == "ValueError"


@given(st.text(max_size=3000), st.sampled_from(sorted(CODES)))
def test_an_error_is_one_short_line_of_printable_text(text, code):
    error = CompresscError(code, text, got=text, where=text, hint=text)
    line = str(error)
    assert len(line) < 1000
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    line.encode("utf-8")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == line == str(error.hinted(text))


def test_both_ends_of_a_long_text_are_shown_and_short_ones_stay():
    error = CompresscError("CC300", "wanted", got="a" + "b" * 50_000 + "c")
    assert error.got.startswith("ab")
    assert error.got.endswith("bc")
    assert len(error.got) == LONGEST
    assert "\N{HORIZONTAL ELLIPSIS}" in error.got
    short = CompresscError("CC300", "ä 漢 'quoted'", got="two  blanks\nand\ta tab")
    assert str(short) == "[CC300] ä 漢 'quoted' (got two blanks and a tab)"
    escape = CompresscError("CC300", "x", got="\x1b[31mred\udc80")
    assert escape.got == "\\x1b[31mred\\udc80"
