"""Measure the prose of a Markdown page: words and commas per sentence, line lengths, links and anchors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"^\s*(```|~~~)")
LIST_ITEM = re.compile(r"^\s*([-*+]|\d+[.)])\s+")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
RULE = re.compile(r"^\s*([-*_])(\s*\1){2,}\s*$")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
GENERATED = re.compile(r"<!-- generated: (\S+) -->.*?<!-- end: \1 -->", re.DOTALL)
CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]*)[^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)[^)]*\)")
TARGET = re.compile(r"\]\(([^)\s]*)[^)]*\)")
ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|//")
SENTENCE_END = re.compile(r"""[.!?][)"'*_]*\s+(?=[("'*_]*[A-Z0-9])""")
COMMA = re.compile(r",(?=\s|$)")
WORD = re.compile(r"\w")


@dataclasses.dataclass(frozen=True)
class Measure:
    """What the sentences of a page are like.

    Attributes:
        sentences: Number of sentences.
        words: Mean number of words in a sentence. A code span is one word.
        commas: Mean number of commas in a sentence. The comma inside a number does not count.
    """

    sentences: int
    words: float
    commas: float


def measure(text: str) -> Measure:
    """Return the mean length of the sentences of a Markdown text, and their mean number of commas."""
    found = [sentence for block in find_prose(text) for sentence in split_sentences(block)]
    if not found:
        return Measure(0, 0.0, 0.0)
    words = sum(len([word for word in sentence.split() if WORD.search(word)]) for sentence in found)
    commas = sum(len(COMMA.findall(sentence)) for sentence in found)
    return Measure(len(found), words / len(found), commas / len(found))


def find_prose(text: str) -> list[str]:
    """Return the paragraphs and list items of a Markdown text, each on one line.

    Code blocks, tables, headings, comments, generated blocks and the targets of links are left out. `Code` stands in
    the place of each code span, so that a command is one word and has no comma.
    """
    blocks: list[list[str]] = [[]]
    for line in prose_lines(text):
        if not line.strip() or LIST_ITEM.match(line):
            blocks.append([])
        blocks[-1].append(LIST_ITEM.sub("", line).strip(" >"))
    joined = (" ".join(" ".join(block).split()) for block in blocks)
    return [strip_markup(block) for block in joined if block]


def split_sentences(block: str) -> list[str]:
    """Return the sentences of one paragraph. A sentence ends at `.`, `!` or `?` before a capital letter or a digit."""
    return [sentence for sentence in SENTENCE_END.split(block) if WORD.search(sentence)]


def strip_markup(block: str) -> str:
    """Return a paragraph without code spans, images and the targets of its links."""
    block = CODE_SPAN.sub("Code", block)
    return LINK.sub(r"\1", IMAGE.sub(r"\1", block))


def prose_lines(text: str) -> Iterator[str]:
    """Yield the lines of a Markdown text that are prose; an empty line in the place of everything else."""
    in_list, blank_before = False, True
    for line, is_code in mark_code(blank_out(text)):
        if is_code or HEADING.match(line) or RULE.match(line) or line.lstrip().startswith("|"):
            yield ""
            blank_before = True
            in_list = in_list and (is_code or line.startswith(" "))
            continue
        if LIST_ITEM.match(line) and (in_list or not line.startswith("    ")):
            in_list = True
        elif line.strip() and not line.startswith(" ") and blank_before:
            in_list = False
        indented = line.startswith("    ") and blank_before and not in_list
        if indented and line.strip():
            yield ""
            continue
        yield line
        blank_before = not line.strip()


def mark_code(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line of a Markdown text, and whether it belongs to a fenced code block."""
    fence = ""
    for line in text.splitlines():
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
            yield line, True
        elif mark and mark[1] == fence:
            fence = ""
            yield line, True
        else:
            yield line, bool(fence)


def blank_out(text: str) -> str:
    """Return the text with comments and generated blocks emptied; the numbers of the other lines stay."""
    for pattern in (GENERATED, COMMENT):
        text = pattern.sub(lambda match: "\n" * match[0].count("\n"), text)
    return text


def find_long_lines(text: str, limit: int) -> list[int]:
    """Return the numbers, from 1, of the lines longer than `limit`. Tables and code blocks may be longer."""
    return [
        number
        for number, (line, is_code) in enumerate(mark_code(blank_out(text)), 1)
        if len(line) > limit and not is_code and not line.lstrip().startswith("|")
    ]


def find_links(text: str) -> list[str]:
    """Return the targets of the relative links and images of a Markdown text, tables included."""
    lines = "\n".join("" if is_code else line for line, is_code in mark_code(blank_out(text)))
    plain = CODE_SPAN.sub("", lines)
    return [target for target in TARGET.findall(plain) if not ABSOLUTE.match(target)]


def find_anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a Markdown text, as GitHub makes them."""
    anchors: set[str] = set()
    for line, is_code in mark_code(blank_out(text)):
        heading = None if is_code else HEADING.match(line)
        if heading:
            base = re.sub(r"[^\w\- ]", "", LINK.sub(r"\1", heading[1]).lower()).replace(" ", "-")
            name, count = base, 0
            while name in anchors:
                count += 1
                name = f"{base}-{count}"
            anchors.add(name)
    return anchors


def find_broken_links(page: Path) -> list[str]:
    """Return the relative links of a page whose file or anchor does not exist."""
    broken = []
    for target in find_links(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in find_anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


def find_reachable(start: Path) -> set[Path]:
    """Return the Markdown pages that can be reached from a page by relative links, the page itself included."""
    reached: set[Path] = set()
    waiting = [start.resolve()]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        for target in find_links(page.read_text(encoding="utf-8")):
            path = target.partition("#")[0]
            if path:
                waiting.append((page.parent / path).resolve())
    return reached
