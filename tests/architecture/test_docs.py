"""The pages are written in plain English, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.prose import find_broken_links, find_long_lines, find_reachable, measure

DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
MAX_WORDS = 18.0
"""Mean number of words in a sentence of a page."""
MAX_COMMAS = 1.0
"""Mean number of commas in a sentence of a page."""
MAX_LINE = 125
"""Characters in a line that is neither table nor code."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@each_page
def test_sentences_are_short(page: Path) -> None:
    prose = measure(page.read_text(encoding="utf-8"))
    assert prose.sentences > 0
    assert prose.words <= MAX_WORDS
    assert prose.commas <= MAX_COMMAS


@each_page
def test_lines_are_short(page: Path) -> None:
    assert find_long_lines(page.read_text(encoding="utf-8"), MAX_LINE) == []


@each_page
def test_links_lead_to_a_file_and_an_anchor(page: Path) -> None:
    assert find_broken_links(page) == []


@each_page
def test_named_source_files_are_there(page: Path) -> None:
    named = re.findall(r"\b(?:tests|bench|crowdperf)/[\w/]+\.py\b", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_index_reaches_every_page() -> None:
    index = DOCS / "index.md"
    assert index.is_file()
    lost = {page.resolve() for page in DOCS.rglob("*.md")} - find_reachable(index)
    assert sorted(page.relative_to(DOCS).as_posix() for page in lost) == []


def test_chapters_of_the_standard_name_tests_that_exist() -> None:
    lines = (DOCS / "security.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| V\d+ ", line)]
    assert [row[0].split()[0] for row in rows] == [f"V{number}" for number in range(1, 18)]
    assert {row[1] for row in rows} <= {"met", "partly", "not", "does not apply"}
    named = [(row[0], test) for row in rows for test in re.findall(r"`(tests/[^`]+)`", row[3])]
    lost = [
        f"{chapter}: {test}"
        for chapter, test in named
        for file, _, function in [test.partition("::")]
        if not (ROOT / file).is_file() or f"def {function}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert lost == []
    assert [
        row[0] for row in rows if row[1] in ("met", "partly") and row[0] not in {chapter for chapter, _ in named}
    ] == []
