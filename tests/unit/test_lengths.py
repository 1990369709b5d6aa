"""Files stay below 500 lines and functions below 60; an exception is listed with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("compressc", "plugins", "csrc", "examples", "benchmarks", "tests", "docs")
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh"}
MOST_LINES, MOST_IN_FUNCTION = 500, 60

#: File, or file:function -> why it may be longer.
_OPTIONS = "one parameter for each option, with its help; the body is short"
_KERNEL = "one GPU program: what it keeps in registers cannot be handed to a function"
EXCEPTIONS: dict[str, str] = {
    "compressc/cli/compile.py:compile_command": _OPTIONS,
    "compressc/compile.py:compile": _OPTIONS,
    "compressc/measure/layer_times.py": "one script that runs by itself on another device",
    "compressc/kernels/triton/softmax_kl.py:softmax_kl_rows": _KERNEL,
    "compressc/kernels/triton/topk_kl.py:topk_kl_rows": _KERNEL,
}


def files() -> Iterator[Path]:
    for top in SOURCES:
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Name and lines of every function, docstring and decorators included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - first + 1


def too_long(path: Path, text: str) -> Iterator[tuple[str, int]]:
    name = path.relative_to(ROOT).as_posix()
    lines = text.count("\n")
    if lines >= MOST_LINES:
        yield name, lines
    if path.suffix == ".py":
        for function, length in functions(ast.parse(text)):
            if length >= MOST_IN_FUNCTION:
                yield f"{name}:{function}", length


def test_files_and_functions_are_short() -> None:
    found = dict(
        row for path in files() for row in too_long(path, path.read_text(encoding="utf-8"))
    )
    assert {name: lines for name, lines in found.items() if name not in EXCEPTIONS} == {}
    assert set(EXCEPTIONS) <= set(found), "an exception that is none any more"


@pytest.mark.parametrize(("lines", "fires"), [(499, False), (500, True)])
def test_a_file_of_500_lines_is_too_long(lines: int, fires: bool) -> None:
    assert bool(list(too_long(ROOT / "x.h", "\n" * lines))) == fires


@pytest.mark.parametrize(("lines", "fires"), [(57, False), (58, True)])
def test_a_function_of_60_lines_is_too_long(lines: int, fires: bool) -> None:
    text = "@cached\ndef f():\n" + "    pass\n" * lines
    assert bool(list(too_long(ROOT / "x.py", text))) == fires
