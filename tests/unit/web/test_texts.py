"""The pages' words: every language has every text, with the same places to fill in, and no page asks for another."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import ROOT

TEXTS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "web" / "texts").glob("*.json")}
LITERAL = re.compile(r"""\bt\("([\w.]+)"[,)]|data-(?:text|label)="([\w.]+)\"""")


def test_there_is_a_second_language() -> None:
    assert {"en", "de"} <= set(TEXTS)


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_a_language_has_every_text_with_its_places(language: str) -> None:
    places = {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in TEXTS[language].items()}
    assert places == {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in TEXTS["en"].items()}


def test_every_text_that_a_page_names_exists() -> None:
    sources = [*(ROOT / "web" / "js").glob("*.js"), *(ROOT / "web").rglob("*.html")]
    asked = {first or second for path in sources for first, second in LITERAL.findall(path.read_text())}
    assert len(asked) > 50
    assert asked - set(TEXTS["en"]) == set()
