"""The pages are written in plain English, and their links lead somewhere."""

from __future__ import annotations

import re
from collections import Counter
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

WITHOUT_ROWS = Counter(
    (
        "capture: Decoding to the ring",
        "capture: Beside other ways to read a camera",
        "capture: A camera's memory and processor time",
        "capture: The ring",
        "counting: Counts on clips with known truth",
        "counting: The tracker beside ByteTrack",
        "counting: Kills",
        "gpu: What has never run",
        "gpu: What the benches print on a CUDA device",
        "history: Benchmark: a year of history",
        "history: Benchmark: a year of history",
        "index: Benchmarks",
        "inference: AVX2: speed",
        "inference: AVX-512 and bf16: speed",
        "inference: What int8 changes in counts",
        "inference: Weights of 7 bits",
        "inference: Streams",
        "inference: Streams",
        "inference: Streams",
        "inference: Tried without effect",
        "ppe: Per person",
        "ppe: Votes of single frames",
        "ppe: Verdicts on clips",
        "replay: Benchmark: replay",
        "site: Cameras on two cores",
        "site: Beside other programs",
        "site: Scenes",
        "site: Forty cameras",
        "site: Restarts and starts",
        "web: Live events",
        "web: Pictures",
        "web: A slow client",
    )
)
"""Tables of the benchmarks that have no raw figures, once for each table below a heading."""

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


def list_tables(page: Path) -> list[tuple[str, str]]:
    """(heading, name of the generated block or nothing) of every table of a page."""
    found, heading, block, before = [], "", "", ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif marker := re.fullmatch(r"<!-- (generated|end): (\w+) -->", line):
            block = marker[2] if marker[1] == "generated" else ""
        elif line.startswith("|") and not before.startswith("|"):
            found.append((heading, block))
        before = line
    return found


def test_tables_of_benches_show_the_rows_of_a_file_beside_them() -> None:
    """Except those whose raw figures were not kept: no table is added to them."""
    pages = sorted((DOCS / "benchmarks").glob("*.md"))
    tables = [(page.stem, *table) for page in pages for table in list_tables(page)]
    shown = {block for _, _, block in tables if block}
    assert shown == {file.stem for file in (DOCS / "benchmarks").glob("*.json")}
    without = Counter(f"{page}: {heading}" for page, heading, block in tables if not block)
    assert without == WITHOUT_ROWS
