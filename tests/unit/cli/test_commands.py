"""The table of commands: every entry can be imported, old names work, the start stays cheap."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from crowdperf.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_entry_exists(command: object) -> None:
    module, _, function = command.entry.partition(":")  # type: ignore[attr-defined]
    assert callable(getattr(importlib.import_module(f"crowdperf.cli.{module}"), function))


@pytest.mark.parametrize("words", [["probe-source", "--help"], ["look", "--help"], ["audit", "--help"]])
def test_old_and_new_names_work(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(words)
    assert "usage: crowdperf" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [command.name for command in COMMANDS if command.name not in shown] == []


def test_an_unknown_command_is_status_2() -> None:
    for words in ([], ["nonsense"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)


def test_registry_imports_no_command() -> None:
    code = "import sys, crowdperf.__main__; print([m for m in sys.modules if m in ('redis', 'numpy', 'cv2')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
