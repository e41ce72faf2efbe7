"""A configuration file that cannot be replaced: a mount point of its own, or another user's."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crowdperf.__main__ import main
from crowdperf.messaging import codec
from crowdperf.messaging.streams import AUDIT
from crowdperf.supervision.config_versions import ConfigHistory
from tests.conftest import ROOT, RedisServer, missing

DOCUMENT = {"cameras": [{"id": "lobby", "url": "rtsp://192.0.2.8/"}]}
REQUEST = {
    "do": "edit",
    "edits": [{"mode": "merge", "path": ["cameras", "lobby"], "value": {"name": "North"}}],
    "who": "ada",
}
WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
"""Root without its right to pass over the modes of files."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An installation with one camera."""
    tmp_path.chmod(0o755)
    for name in ("crowdperf", "web", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "supervisord.conf", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "var").mkdir()
    return tmp_path


def change_name(folder: Path, *wrapper: str) -> dict[str, Any]:
    """Name the camera as the dashboard does; return the response."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "crowdperf", "config", "ask"],
        cwd=folder,
        input=json.dumps(REQUEST).encode(),
        capture_output=True,
    )
    assert done.stdout, done.stderr.decode()
    return dict(json.loads(done.stdout))


def test_a_file_that_is_a_mount_point_is_written_in_place(folder: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        missing("the right to make a mount namespace (unshare -m)")
    outside = folder / "outside.json"
    # Longer than what is written: the rest must go.
    outside.write_text(json.dumps(DOCUMENT) + " " * 4096)
    mount = 'mount --bind outside.json config.json && exec "$@"'
    response = change_name(folder, "unshare", "-m", "sh", "-c", mount, "sh")
    assert response.get("status", 200) == 200, response
    assert json.loads(outside.read_text())["cameras"][0]["name"] == "North"
    assert outside.stat().st_size < 4096


def test_a_file_of_another_user_is_refused_with_owner_and_remedy(folder: Path) -> None:
    if os.geteuid() != 0:
        missing("root, to give a file to another user")
    shutil.chown(folder / "config.json", "nobody")
    shutil.chown(folder, "nobody")
    response = change_name(folder, *WITHOUT_OVERRIDE)
    assert response["status"] == 409
    for part in ("belongs to nobody", "runs as root", "Remedy: chown"):
        assert part in response["detail"]
    assert json.loads((folder / "config.json").read_text()) == DOCUMENT
    comments = [version.comment for version in ConfigHistory(folder / "var" / "config").list_versions()]
    assert comments == ["the file as it was found"]


def test_a_rollback_on_the_command_line_is_audited(
    folder: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CROWDPERF_CONFIG", raising=False)
    settings = DOCUMENT | {"redis": {"url": redis_server.url, "key_prefix": "hall:"}}
    (folder / "config.json").write_text(json.dumps(settings))
    change_name(folder)
    (folder / "config.json").write_text("{")
    assert main(["config", "rollback", "1"]) == 0
    assert main(["config", "rollback", "77"]) == 2
    rows = [codec.decode(AUDIT, fields) for _, fields in redis_server.client().xrange("hall:crowdperf:audit")]
    assert [(row.action, row.target, row.detail) for row in rows] == [
        ("config.rollback.intent", "version 1", ""),
        ("config.rollback", "version 1", "version 3"),
        ("config.rollback.intent", "version 77", ""),
        ("config.rollback.refuse", "version 77", "status 404"),
    ]
    assert {(row.who, row.via) for row in rows} == {(getpass.getuser(), "cli")}
    assert json.loads((folder / "config.json").read_text()) == settings
    # A site that does not start has no Redis.
    (folder / "config.json").write_text(json.dumps(DOCUMENT))
    capsys.readouterr()
    assert main(["config", "rollback", "1"]) == 0
    assert capsys.readouterr().err.count("no audit entry") == 1
