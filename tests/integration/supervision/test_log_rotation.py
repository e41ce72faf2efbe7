"""Logs that cannot fill a disk: every program's is rotated by supervisord, with the settings that are rendered."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.supervision import programs
from crowdperf.supervision.processes import PROCESSES
from crowdperf.supervision.programs import build_programs
from tests.conftest import ROOT, wait_until

CAMERAS = [{"id": name, "url": "rtsp://192.0.2.1/"} for name in ("lobby", "gate", "dock")]
MB = 2**20
MAX_BYTES = 50 * MB
"""Of one program's logs: a site of a hundred programs then needs 5 GB at most."""
SUPERVISORD = """
[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}

"""
CHATTER = """
import os
for n in range(20000):
    os.write(1 + n % 2, b"%05d %s\\n" % (n, b"x" * 93))
os.write(1, b"the end\\n")
"""
"""Twenty times what one file may hold, to both of its outputs in turn."""
READ_BYTES = 2 << 16
"""supervisord looks at a log's size behind each of its reads."""


def stanzas(folder: Path, **more: object) -> configparser.RawConfigParser:
    """What is rendered for that configuration."""
    config = parse(json.dumps({"cameras": CAMERAS, **more}).encode())
    text = programs.render(Deployment(config, Paths(folder), read_environment({}), ROOT), sys.executable)
    found = configparser.RawConfigParser()
    found.read_string(text)
    return found


def size(text: str) -> int:
    """supervisord's way to write a number of bytes."""
    number, unit = re.fullmatch(r"(\d+)(KB|MB|GB)?", text).groups()  # type: ignore[union-attr]
    return int(number) * {"KB": 2**10, "MB": MB, "GB": 2**30, None: 1}[unit]


@pytest.mark.parametrize(
    "more",
    [
        {"tracking": {"shards": 2}, "workers": {"recorder": 2}, "postgres": {"dsn": "env:CROWDPERF_POSTGRES_DSN"}},
        {"cameras_per_process": 2, "redis": {"url": "redis://192.0.2.1"}},
    ],
)
def test_every_program_has_one_log_of_its_own_that_is_rotated(tmp_path: Path, more: dict[str, object]) -> None:
    found = stanzas(tmp_path, **more)
    assert len(found.sections()) > 8
    logs = [found[name]["stdout_logfile"] for name in found.sections()]
    assert logs == [str(tmp_path / "log" / f"{name.removeprefix('program:')}.log") for name in found.sections()]
    for name in found.sections():
        row = found[name]
        assert row["redirect_stderr"] == "true", name
        assert 0 < size(row["stdout_logfile_maxbytes"]) * (1 + int(row["stdout_logfile_backups"])) <= MAX_BYTES, name


def test_every_kind_of_process_is_among_them(tmp_path: Path) -> None:
    config = parse(json.dumps({"cameras": CAMERAS, "postgres": {"dsn": "env:CROWDPERF_POSTGRES_DSN"}}).encode())
    kinds = {
        row.process.kind for row in build_programs(Deployment(config, Paths(tmp_path), read_environment({}), ROOT))
    }
    assert kinds == {row.kind for row in PROCESSES if row.instances != "listener"}


def test_logs_of_supervisord_and_its_listener_are_rotated() -> None:
    found = configparser.RawConfigParser()
    found.read(ROOT / "supervisord.conf")
    for section, log in (("supervisord", "logfile"), ("eventlistener:guard", "stderr_logfile")):
        assert 0 < size(found[section][f"{log}_maxbytes"]) <= MAX_BYTES
        assert int(found[section][f"{log}_backups"]) >= 1


def test_chatty_program_keeps_the_newest_of_both_outputs(tmp_path: Path) -> None:
    (stanza, *_) = (part for part in _rendered(tmp_path).split("\n\n") if "capture-lobby]" in part)
    (tmp_path / "chatter.py").write_text(CHATTER)
    settings = stanza.replace("_maxbytes=10MB", "_maxbytes=100KB")
    assert settings != stanza
    settings = re.sub(r"^command=.*$", f"command={sys.executable} {tmp_path}/chatter.py", settings, flags=re.MULTILINE)
    settings = re.sub(r"^autorestart=.*$", "autorestart=false", settings, flags=re.MULTILINE)
    conf = tmp_path / "supervisord.conf"
    conf.write_text(SUPERVISORD.format(folder=tmp_path) + settings)
    logs = tmp_path / "log"
    logs.mkdir()
    log = logs / "capture-lobby.log"
    running = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(conf)], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: log.exists() and log.read_text().endswith("the end\n"), what="its whole output")
    finally:
        running.terminate()
        running.wait()
    files = [log, *(log.with_name(f"{log.name}.{n}") for n in (1, 2, 3))]
    assert sorted(logs.iterdir()) == sorted(files)
    kept = "".join(file.read_text() for file in reversed(files)).splitlines()
    assert all(file.stat().st_size <= 100 * 2**10 + READ_BYTES for file in files)
    assert kept[-1] == "the end"
    numbers = [int(line[:5]) for line in kept[1:-1]]
    # supervisord takes the two outputs as one pipe, so that their order stays.
    assert numbers == list(range(20_000 - len(numbers), 20_000))


def _rendered(folder: Path) -> str:
    config = parse(json.dumps({"cameras": CAMERAS}).encode())
    return programs.render(Deployment(config, Paths(folder), read_environment({}), ROOT), sys.executable)
