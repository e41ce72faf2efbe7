"""The measure of the documentation: what counts as prose, and faults that it must find."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.prose import (
    Measure,
    find_anchors,
    find_broken_links,
    find_links,
    find_long_lines,
    find_prose,
    find_reachable,
    measure,
    split_sentences,
)

PLAIN = "The camera is down. It is tried again after ten seconds.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PLAIN, Measure(2, 5.5, 0.0)),
        ("One, two, three.", Measure(1, 3.0, 2.0)),
        ("It holds 10,000 entries.", Measure(1, 4.0, 0.0)),
        ("Run `a, b, c` first.", Measure(1, 3.0, 0.0)),
        ("See [the page](a,b.md), then go on.", Measure(1, 6.0, 1.0)),
        ("A dash – is no word.", Measure(1, 5.0, 0.0)),
        ("- one item\n- another item\n  that goes on\n", Measure(2, 3.5, 0.0)),
        ("First line,\nsecond line.", Measure(1, 4.0, 1.0)),
        ("> A quoted, short line.", Measure(1, 4.0, 1.0)),
        ("", Measure(0, 0.0, 0.0)),
    ],
)
def test_measure(text: str, expected: Measure) -> None:
    assert measure(text) == expected


@pytest.mark.parametrize(
    "other",
    [
        "# A heading, with, commas\n",
        "```\nsome code, with, commas\n\n# and no heading\n```\n",
        "~~~\nsome code\n```\nstill, the, same, block\n~~~\n",
        "1. step\n\n   ```\n   code, in, a, list\n   ```\n",
        "    indented, code, block\n",
        "| a, table | of, words |\n| --- | --- |\n| c, d | e, f |\n",
        "<!-- a comment, with, commas -->\n",
        "<!-- generated: x -->\nA sentence, with, commas.\n<!-- end: x -->\n",
        "---\n",
    ],
)
def test_prose_leaves_out(other: str) -> None:
    text = f"{PLAIN}\n{other}\n{PLAIN}"
    assert measure(text).commas == 0.0
    assert find_prose(text)[0] == find_prose(text)[-1] == PLAIN.strip()


@pytest.mark.parametrize(
    "text",
    [
        "- an item\n\n    its second paragraph, which is prose\n",
        "1. an item\n\n   ```\n   code\n   ```\n\n   its second paragraph, which is prose\n",
        "A paragraph\n    whose second line is indented, which is prose\n",
    ],
)
def test_prose_keeps_indented_paragraphs(text: str) -> None:
    assert measure(text).commas > 0.0


def test_a_code_block_separates_sentences() -> None:
    assert find_prose("Run this:\n```\ncode\n```\nThen that.") == ["Run this:", "Then that."]


@pytest.mark.parametrize(
    ("block", "count"),
    [
        ("One. Two! Three?", 3),
        ("The rate is 1.5 frames a second.", 1),
        ("Set it to 5. 10 is too much.", 2),
        ("**Bold.** Then *more.* Code follows.", 3),
        ("(In brackets.) And then.", 2),
        ("An ellipsis … goes on.", 1),
        ("the file a.md lies there", 1),
    ],
)
def test_sentences(block: str, count: int) -> None:
    assert len(split_sentences(block)) == count


def test_long_lines() -> None:
    long = "x" * 20
    text = f"short\n{long}\n| {long} |\n```\n{long}\n```\n<!-- generated: a -->\n{long}\n<!-- end: a -->\n{long}\n"
    assert find_long_lines(text, 19) == [2, 10]
    assert find_long_lines(text, 20) == []


def test_links() -> None:
    text = (
        "[a](a.md) ![b](b.png) [c](https://example.org) [d](mailto:x@example.org) `[e](e.md)`\n"
        '| [f](f.md#part) | [g](g.md "title") |\n[![h](h.png)](i.md)\n```\n[j](j.md)\n```\n'
    )
    assert sorted(find_links(text)) == ["a.md", "b.png", "f.md#part", "g.md", "h.png", "i.md"]


def test_anchors() -> None:
    text = "# A page: with `code`, and more\n## Part\n## Part\n```\n# no heading\n```\n### [Link](x.md) text\n"
    assert find_anchors(text) == {"a-page-with-code-and-more", "part", "part-1", "link-text"}


@pytest.mark.parametrize(
    ("link", "broken"),
    [
        ("b.md", False),
        ("b.md#part", False),
        ("#own", False),
        ("c.md", True),
        ("b.md#other", True),
        ("#other", True),
    ],
)
def test_broken_links(tmp_path: Path, link: str, broken: bool) -> None:
    (tmp_path / "a.md").write_text(f"# Own\n[link]({link})\n")
    (tmp_path / "b.md").write_text("# Part\n")
    assert find_broken_links(tmp_path / "a.md") == ([link] if broken else [])


def test_reachable_pages(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text("[a](deep/a.md#x) [gone](gone.md) [picture](p.png)\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.md").write_text("[b](../b.md) [back](../index.md)\n")
    (tmp_path / "b.md").write_text("text\n")
    (tmp_path / "alone.md").write_text("[b](b.md)\n")
    (tmp_path / "p.png").write_text("")
    reached = find_reachable(tmp_path / "index.md")
    assert sorted(path.name for path in reached) == ["a.md", "b.md", "index.md"]
