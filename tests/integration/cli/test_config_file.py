"""A configuration file that cannot be replaced: a mount point of its own, or another user's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crowdperf.supervision.config_versions import ConfigHistory
from tests.conftest import ROOT, missing

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
