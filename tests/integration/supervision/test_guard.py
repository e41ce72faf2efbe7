"""The guard beside a real supervisord: more programs fail at once than its event buffer holds."""

from __future__ import annotations

import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from crowdperf.settings.environment import Paths
from crowdperf.supervision.control import SupervisorClient
from tests.conftest import ROOT, wait_until

PROGRAMS = 30
GUARD = """import pathlib, sys
from crowdperf.settings.environment import Paths
from crowdperf.supervision import control
control.RESTART_DELAY_S = 1.0
control.restart_failed_programs(Paths(pathlib.Path(sys.argv[1])))
"""


def write_config(folder: Path, paths: Paths) -> Path:
    """A supervisord with the listener of this project's own file, and programs that fail until a file is there."""
    project = RawConfigParser(inline_comment_prefixes=None)
    project.read(ROOT / "supervisord.conf")
    listener = dict(project["eventlistener:guard"])
    script = folder / "guard.py"
    script.write_text(GUARD)
    listener["command"] = f"{sys.executable} {script} {paths.data}"
    listener["stderr_logfile"] = str(folder / "guard.log")
    listener["environment"] = f'PYTHONPATH="{ROOT}"'
    sections = {
        "supervisord": {"nodaemon": "true", "logfile": "supervisord.log", "pidfile": "supervisord.pid"},
        "unix_http_server": {"file": str(paths.supervisor_socket)},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        "eventlistener:guard": listener,
    }
    for number in range(PROGRAMS):
        sections[f"program:camera-{number}"] = {
            "command": f'sh -c "test -e {folder}/repaired && exec sleep 600"',
            "startsecs": "1",
            "startretries": "0",
            "stdout_logfile": "NONE",
            "stderr_logfile": "NONE",
        }
    lines = []
    for name, options in sections.items():
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in options.items())]
    file = folder / "supervisord.conf"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_thirty_programs_that_fail_at_once_all_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A socket's path is short.
    monkeypatch.chdir(tmp_path)
    paths = Paths(Path("var"))
    paths.sockets.mkdir(parents=True)
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(write_config(tmp_path, paths))]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(paths.supervisor_socket.exists, what="supervisord")
        client = SupervisorClient(paths.supervisor_socket)

        def count(state: str) -> int:
            rows = client.list_programs()
            return sum(row["statename"] == state and row["name"].startswith("camera-") for row in rows)

        wait_until(lambda: count("FATAL") == PROGRAMS, 30, "all to fail")
        (tmp_path / "repaired").touch()
        wait_until(lambda: count("RUNNING") == PROGRAMS, 60, "all to run")
    finally:
        process.terminate()
        process.wait(60)
