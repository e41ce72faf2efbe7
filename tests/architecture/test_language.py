"""Names and docstrings keep the rules of CONTRIBUTING.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.language import check_file, find_duplicate_classes

SOURCES = sorted((ROOT / "crowdperf").rglob("*.py"))
SAMPLE = '''
MOST_ROWS = 3
"""of a page"""


def shown(a: int, b: int, c: int) -> int:
    """What nobody sees, since this line goes on and on, until it has more than one hundred characters in all."""
    return a + b + c
'''


@pytest.mark.parametrize(
    "package", sorted({path.relative_to(ROOT).parts[1] for path in SOURCES if path.stem != "__init__"})
)
def test_names_and_docstrings_are_plain(package: str) -> None:
    folder = ROOT / "crowdperf" / package
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]
    assert [finding for path in paths for finding in check_file(path)] == []


def test_no_class_name_stands_twice() -> None:
    assert find_duplicate_classes(SOURCES) == {}


def test_the_check_finds_each_fault(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    ast.parse(SAMPLE)
    texts = " ".join(check_file(path))
    for expected in (
        "say MAX_ or MIN_",
        "write a full sentence",
        "100 at most",
        "'nobody' plainly",
        "begin with a verb, not 'what'",
        "under `Args:`",
        "under `Returns:`",
    ):
        assert expected in texts
