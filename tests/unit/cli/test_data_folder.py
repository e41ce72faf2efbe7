"""Other users of the machine: the data folder is closed to them, a readable configuration is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowdperf.cli.check import check_config_mode
from crowdperf.cli.run import close_data_folder
from crowdperf.settings.environment import Paths


@pytest.fixture(autouse=True)
def common_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("exists", [False, True])
def test_data_folder_is_closed_to_other_users(tmp_path: Path, exists: bool) -> None:
    paths = Paths(tmp_path / "var")
    if exists:
        paths.logs.mkdir(parents=True)
    close_data_folder(paths)
    (paths.logs / "web.log").write_text("line")
    assert paths.data.stat().st_mode & 0o777 == 0o700
    assert (paths.logs / "web.log").stat().st_mode & 0o777 == 0o600


def test_a_folder_of_another_user_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(tmp_path / "var")
    paths.data.mkdir(mode=0o755)
    monkeypatch.setattr(os, "geteuid", lambda: paths.data.stat().st_uid + 1)
    close_data_folder(paths)
    assert paths.data.stat().st_mode & 0o777 == 0o755
    assert paths.logs.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("mode", "url", "is_reported"),
    [
        (0o644, "rtsp://admin:secret@camera/live", True),
        (0o640, "rtsp://admin:secret@camera/live", True),
        (0o600, "rtsp://admin:secret@camera/live", False),
        (0o644, "rtsp://camera/live", False),
    ],
)
def test_readable_credentials_are_reported(tmp_path: Path, mode: int, url: str, is_reported: bool) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"cameras": [{"id": "door", "url": url}]}))
    file.chmod(mode)
    findings = list(check_config_mode(file))
    assert bool(findings) == is_reported
    assert all(not finding.ok and "Remedy: chmod 600" in finding.text for finding in findings)
    assert all("secret" not in finding.text for finding in findings)
