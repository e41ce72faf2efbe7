"""The rules of the code base, as tests: formatting, types, layers, sizes."""

from __future__ import annotations

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


def test_no_package_has_an_empty_name() -> None:
    banned = {"utils", "helpers", "common", "core", "manager", "misc"}
    assert [str(path) for path in SOURCES if path.stem in banned or path.parent.name in banned] == []
