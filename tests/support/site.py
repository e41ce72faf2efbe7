"""A whole crowdperf site of its own: the real supervisord with real processes, in a folder that nothing else uses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import redis

from crowdperf.messaging.process_metrics import decode_snapshot, metrics_key
from crowdperf.messaging.redis.client import connect
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.settings.base import ConfigError
from crowdperf.settings.environment import Paths
from crowdperf.storage.counts import PERSON_LOG, VEHICLE_LOG, CrossingRecord, decode_member
from crowdperf.supervision.control import SupervisorClient
from tests.conftest import ROOT, compiled_models, wait_until
from tests.support.ports import free_port

LINKED = (".venv", "crowdperf", "web", "models")


class Site:
    """One installation in `folder`: `with Site(folder, config) as site: …` starts and stops it as a user would."""

    def __init__(self, folder: Path, config: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.paths = Paths(folder / "var")
        self.port = free_port()
        self.config = {"web": {"port": self.port}, **config}
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.wrap: list[str] = []
        """A command that `run` is started through."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        shutil.copy(ROOT / "supervisord.conf", folder)
        self.paths.data.mkdir(exist_ok=True)
        (self.paths.data / "cache").symlink_to(compiled_models())
        self.write_config()

    def write_config(self) -> None:
        """Write config.json, as an operator with an editor would."""
        (self.folder / "config.json").write_text(json.dumps(self.config, indent=2))

    def patch_code(self, file: str, text: str, replacement: str) -> None:
        """Give this site a copy of the package with one place changed, to show that something else depends on it."""
        package = self.folder / "crowdperf"
        if package.is_symlink():
            package.unlink()
            shutil.copytree(ROOT / "crowdperf", package, ignore=shutil.ignore_patterns("__pycache__"))
        source = (package / file).read_text()
        assert source.count(text) == 1, f"{file} has changed: {text!r} is not in it once"
        (package / file).write_text(source.replace(text, replacement))

    @property
    def python(self) -> str:
        """Return the site's interpreter."""
        return str(self.folder / ".venv" / "bin" / "python")

    def start(self) -> None:
        """`./crowdperf.sh run`, once set up."""
        output = (self.folder / "run.out").open("wb")
        self.process = subprocess.Popen(
            [*self.wrap, self.python, "-m", "crowdperf", "run"],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C (or another signal); returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(150)

    def __enter__(self) -> Site:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is not None:
            print(self.collect_logs())

    def collect_logs(self) -> str:
        """Return the ends of all logs, for a failing test."""
        parts = [f"== run.out\n{(self.folder / 'run.out').read_text()[-2000:]}"]
        for log in sorted(self.paths.logs.glob("*.log")):
            parts.append(f"== {log.name}\n{log.read_text(errors='replace')[-2500:]}")
        return "\n".join(parts)

    def run_ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Return the real supervisorctl."""
        return subprocess.run(
            [str(self.folder / ".venv/bin/supervisorctl"), "-c", "supervisord.conf", *words],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def control(self) -> SupervisorClient:
        """supervisord's XML-RPC."""
        return SupervisorClient(self.paths.supervisor_socket)

    def get_pids(self) -> dict[str, int]:
        """Program -> pid, 0 where it does not run."""
        return {row["name"]: row["pid"] for row in self.control().list_programs()}

    def get_states(self) -> dict[str, str]:
        """Program -> RUNNING, STARTING, …."""
        return {row["name"]: row["statename"] for row in self.control().list_programs()}

    def wait_for_supervisord(self) -> None:
        """Until it answers: its socket is there a moment before anybody listens on it."""
        wait_until(self._is_supervised, 30, "supervisord")

    def _is_supervised(self) -> bool:
        try:
            return bool(self.control().list_programs())
        except ConfigError:
            return False

    def wait_for_pid(self, program: str, before: int = 0) -> int:
        """Until the program runs, as another process than `before`; its pid."""
        found = [0]

        def runs() -> bool:
            found[0] = self.get_pids().get(program, 0)
            return found[0] not in (0, before)

        wait_until(runs, 60, f"{program} runs")
        return found[0]

    def wait_for_pids(self) -> dict[str, int]:
        """Until every program runs; program -> pid. An update returns before supervisord has started what is new."""
        found: dict[str, int] = {}

        def run() -> bool:
            found.clear()
            found.update(self.get_pids())
            return all(found.values())

        wait_until(run, 60, "every program runs")
        return found

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Until /readyz says 200."""
        wait_until(lambda: self.get_status("/readyz") == 200, timeout_s, "/readyz")

    def wait_for_web(self) -> None:
        """Until the web process answers."""
        wait_until(lambda: self.get_status("/healthz") == 200, 60, "the web process")

    @property
    def url(self) -> str:
        """Root of the dashboard."""
        return f"http://127.0.0.1:{self.port}"

    def get_status(self, path: str) -> int:
        """Return the HTTP status of a GET, 0 while there is no listener."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def get(self, path: str) -> Any:
        """Return a GET's JSON."""
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return json.load(reply)

    def redis(self) -> redis.Redis:
        """Return the embedded Redis, or the one that the configuration names."""
        return connect(self.config.get("redis", {}).get("url") or self.paths.redis_url)

    def read_snapshot(self, process: str) -> ProcessSnapshot | None:
        """Return the newest metrics of a process; None while it has none, or Redis itself is not there yet."""
        try:
            raw = self.redis().get(metrics_key(process))
        except redis.ConnectionError:
            return None
        return decode_snapshot(raw) if isinstance(raw, bytes) else None

    def read_counter(self, process: str, name: str, camera: str = "") -> float:
        """Return a counter of a process, 0 while it has none."""
        snapshot = self.read_snapshot(process)
        return snapshot.counters.get(name, {}).get(camera, 0) if snapshot else 0

    def read_crossings(self) -> list[CrossingRecord]:
        """Return all of person_logs and vehicle_logs, in order of time."""
        client = self.redis()
        rows = []
        for name in (PERSON_LOG, VEHICLE_LOG):
            for member in client.zrange(name, 0, -1):
                assert isinstance(member, bytes)
                row = decode_member(member)
                assert row is not None, member
                rows.append(row)
        return sorted(rows, key=lambda row: row.ts)

    def list_unread_streams(self, cameras: Iterable[str]) -> list[str]:
        """Streams that a consumer group has not handled to their newest entry."""
        client = self.redis()
        behind = []
        for name in (*(f"crowdperf:detections:{camera}" for camera in cameras), "crowdperf:events"):
            newest = client.xinfo_stream(name)["last-generated-id"]
            for group in client.xinfo_groups(name):
                if group["pending"] or group["last-delivered-id"] != newest:
                    behind.append(f"{name} by {group['name'].decode()}")
        return behind

    def read_events(self, kind: str) -> list[dict[str, str]]:
        """Return all entries of the events stream of one type."""
        entries: Any = self.redis().xrange("crowdperf:events")
        decoded = [{key.decode(): value.decode() for key, value in fields.items()} for _, fields in entries]
        return [row for row in decoded if row["type"] == kind]

    def find_leftovers(self) -> list[str]:
        """Shared-memory segments and processes that this site left behind."""
        rings = [str(path) for path in self.paths.rings.glob("*")]
        processes = []
        for entry in Path("/proc").glob("[0-9]*/cwd"):
            try:
                if entry.resolve() == self.folder.resolve():
                    processes.append((entry.parent / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return rings + processes


def merged(base: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a deep copy of `base` with further keys."""
    return {**msgspec.json.decode(msgspec.json.encode(base)), **more}
