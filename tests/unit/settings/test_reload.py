"""What the web process takes over while it runs: all of it reaches the file, and the rest restarts the process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crowdperf.settings.config import Config, Deployment, parse
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.settings.process_config import WebReloadable, build_web_config, get_reloadable, replace_reloadable
from crowdperf.settings.reload import ReloadFile, write_reload_file
from crowdperf.supervision import programs
from crowdperf.supervision.programs import build_programs

CAMERA = {
    "id": "plaza",
    "url": "rtsp://viewer:s3cret@192.0.2.7/?token=t0ken",
    "lines": [{"id": "bent", "points": [[0.2, 0.2], [0.5, 0.6], [0.5, 0.9]]}],
    "zones": [{"id": "square", "polygon": [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]], "limit": 4}],
}
AREA = {"id": "hall", "doors": [{"camera": "plaza", "line": "bent"}]}
RULE = {"id": "crowded", "event": "ZoneChanged", "zones": ["square"], "above": 3, "channels": ["office"]}
CHANNEL = {"id": "office", "type": "webhook", "url": "https://office.example/hook"}


def site(**more: Any) -> Config:
    return parse(json.dumps({"cameras": [CAMERA], **more}).encode())


def digest(config: Config, tmp_path: Path) -> str:
    rows = build_programs(Deployment(config, Paths(tmp_path), read_environment({}), tmp_path))
    return next(row.digest for row in rows if row.name == "web")


@pytest.mark.parametrize(
    "change",
    [
        {"cameras": []},
        {"cameras": [CAMERA, {"id": "lobby", "url": "rtsp://192.0.2.8/"}]},
        {"cameras": [{**CAMERA, "lines": []}]},
        {"cameras": [{**CAMERA, "name": "North", "enabled": False}]},
        {"visitors": {"briefing": "Mind the forklifts"}},
        {"areas": [AREA]},
        {"alerts": {"rules": [RULE], "channels": [CHANNEL], "quiet_hours": [{"start": "22:00", "end": "06:00"}]}},
    ],
)
def test_a_reloadable_change_reaches_the_process_without_restart(change: dict[str, Any], tmp_path: Path) -> None:
    before, after = site(), site(**change)
    paths = Paths(tmp_path)
    assert digest(before, tmp_path) == digest(after, tmp_path)
    programs.write_include_file(Deployment(before, paths, read_environment({}), tmp_path))
    process = ReloadFile(paths.web_reload_file, WebReloadable)
    programs.write_include_file(Deployment(before, paths, read_environment({}), tmp_path))
    assert process.read_if_changed() is None
    programs.write_include_file(Deployment(after, paths, read_environment({}), tmp_path))
    reloaded = process.read_if_changed()
    assert reloaded is not None
    assert replace_reloadable(build_web_config(Deployment(before, paths)), reloaded) == build_web_config(
        Deployment(after, paths)
    ), "as a new process would have it"
    assert process.read_if_changed() is None, "once"


@pytest.mark.parametrize(
    "change",
    [{"web": {"port": 9000}}, {"web": {"host": "0.0.0.0"}}, {"site": {"timezone": "Europe/Berlin"}}],
)
def test_settings_of_the_web_server_restart_it(change: dict[str, Any], tmp_path: Path) -> None:
    assert digest(site(), tmp_path) != digest(site(**change), tmp_path)


def test_the_reload_file_holds_no_password_and_is_private(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    programs.write_include_file(Deployment(site(), paths, read_environment({}), tmp_path))
    text = paths.web_reload_file.read_text()
    assert "192.0.2.7" in text
    assert "s3cret" not in text
    assert "t0ken" not in text
    assert paths.web_reload_file.stat().st_mode & 0o777 == 0o600


def test_a_file_written_during_the_start_counts_as_a_change(tmp_path: Path) -> None:
    path = tmp_path / "shown.json"
    write_reload_file(path, get_reloadable(build_web_config(Deployment(site(), Paths(tmp_path)))))
    os.utime(path, (1000.0, 1000.0))
    assert ReloadFile(path, WebReloadable, since=1000.5).read_if_changed() is None
    assert ReloadFile(path, WebReloadable, since=999.5).read_if_changed() is not None


def test_every_field_is_reloadable_or_restarts() -> None:
    """A field of the process configuration that people change must be in one of the two parts."""
    own = {field.name for field in msgspec.structs.fields(build_web_config(Deployment(site(), Paths(Path("var")))))}
    assert own - set(WebReloadable.__struct_fields__) == {
        *("site", "web", "reload_file", "ring_prefix", "sockets", "evidence", "redis_url", "key_prefix")
    }
