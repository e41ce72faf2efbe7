"""A setpriv that lacks the option is not used."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowdperf.supervision import process_tree


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    process_tree.find_setpriv.cache_clear()
    yield
    process_tree.find_setpriv.cache_clear()


@pytest.mark.parametrize(("status", "is_used"), [(0, True), (1, False)])
def test_setpriv_is_tried_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, is_used: bool
) -> None:
    script = tmp_path / "setpriv"
    script.write_text(f'#!/bin/sh\necho "unrecognized option" >&2\nexit {status}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("setpriv") == str(script)
    assert process_tree.find_setpriv() == (str(script) if is_used else None)


def test_there_may_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process_tree.find_setpriv() is None
