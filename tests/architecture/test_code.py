"""The rules of the code base, as tests: formatting, types, layers, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted((ROOT / "crowdperf").rglob("*.py"))


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
    ],
    ids=lambda command: " ".join(command),
)
def test_tool_is_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_layers_hold() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "0 broken" in done.stdout


def test_every_init_is_empty() -> None:
    assert [str(path) for path in SOURCES if path.name == "__init__.py" and path.read_text().strip()] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_small(path: Path) -> None:
    limit = 100 if path.name == "process.py" else 400
    assert len(path.read_text().splitlines()) <= limit


def test_nothing_but_the_named_places_catches_every_exception() -> None:
    # `except BaseException` that cleans up and raises again hides nothing.
    catching = re.compile(r"except( Exception\b[^\n]*|):|except BaseException:(?!(\n +[^\n]+)*?\n +raise\n)")
    assert [str(path) for path in SOURCES if catching.search(path.read_text())] == []


def find_own_outage_loops(code: str) -> list[str]:
    """List what a second back-off or a second loop over outages would need."""
    found = []

    def visit(node: ast.AST, in_loop: bool) -> None:
        in_loop = (in_loop or isinstance(node, ast.While | ast.For | ast.AsyncFor)) and not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef
        )
        match node:
            case ast.BinOp(left=ast.Constant(), op=ast.Pow() | ast.LShift(), right=right):
                if not isinstance(right, ast.Constant):
                    found.append(f"line {node.lineno}: a growing wait")
        if isinstance(node, ast.ExceptHandler) and in_loop and node.type and "OUTAGE" in ast.unparse(node.type):
            found.append(f"line {node.lineno}: a loop over outages")
        for child in ast.iter_child_nodes(node):
            visit(child, in_loop)

    visit(ast.parse(code), False)
    return found


def test_one_place_computes_waits_and_survives_outages() -> None:
    """Use `primitives.backoff` and `messaging.outages` elsewhere."""
    found = {str(path.relative_to(ROOT)): find_own_outage_loops(path.read_text()) for path in SOURCES}
    assert {path: rows for path, rows in found.items() if rows} == {
        "crowdperf/primitives/backoff.py": ["line 26: a growing wait"]
    }
    second = "while True:\n    try:\n        f()\n    except (*OUTAGE, ValueError):\n        sleep(2.0 ** n)\n"
    assert find_own_outage_loops(second) == ["line 4: a loop over outages", "line 5: a growing wait"]


def test_no_package_has_an_empty_name() -> None:
    banned = {"utils", "helpers", "common", "core", "manager", "misc"}
    assert [str(path) for path in SOURCES if path.stem in banned or path.parent.name in banned] == []


MAX_TEST_NAME = 60
"""Longest name of a test, in characters."""
MAX_SIBLINGS = 14
"""Most modules beside each other in one folder."""
OUTSIDE = re.compile(r"^test_[0-9]|^[0-9]+: |\bDESIGN\b|\b(issue|defect) #?[0-9]+")
"""A reference to a document that a reader of the repository does not have."""


def find_tests() -> list[tuple[str, str]]:
    """List (file, name) of every test function."""
    return [
        (str(path.relative_to(ROOT)), node.name)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def test_names_of_tests_are_short() -> None:
    found = find_tests()
    assert len(found) > 500
    assert [row for row in found if len(row[1]) > MAX_TEST_NAME] == []


def test_tests_refer_to_nothing_outside_the_repository() -> None:
    assert [row for row in find_tests() if OUTSIDE.search(row[1])] == []
    texts = [
        f"{path.relative_to(ROOT)}: {node.value}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and OUTSIDE.search(node.value)
    ]
    assert [text for text in texts if "test_code.py" not in text] == []


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in SOURCES}
    crowded = {
        str(folder.relative_to(ROOT)): count
        for folder in folders
        if (count := sum(path.name != "__init__.py" for path in folder.glob("*.py"))) > MAX_SIBLINGS
    }
    assert crowded == {}
