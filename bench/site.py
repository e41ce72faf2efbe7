"""A whole site for a bench: the product under supervisord, in a temporary folder, on clips with truth."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from bench.harness import Counts
from bench.mixed import Footage
from bench.tally import WITHIN, tally, total
from crowdperf.demo.outlines import FPS
from crowdperf.evaluation.matching import Passage
from crowdperf.messaging.process_metrics import decode_snapshot, metrics_key
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.settings.base import ConfigError
from crowdperf.settings.environment import Paths
from crowdperf.supervision.control import SupervisorClient

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("crowdperf", "web", "models")
START_S = 90.0
START_CAMERA_S = 3.0
"""More for each camera."""
SETTLE_S = 3.0
"""From the first frames of all cameras on: other processes are still starting."""
MEANT = ("drops_paced", "drops_skipped")
"""Frames that the configuration asks to leave out: no loss."""
ANSWERED = ("frames_analysed",)
"""Counters of frames that tracking got an answer for."""


class Load(msgspec.Struct, frozen=True):
    """What a site did between two snapshots of its inference process."""

    seconds: float
    analysed: float
    """Frames."""
    dropped: float
    """Frames that should have been analysed and were not."""
    min_camera_share: float
    """Frames analysed of the camera that had the fewest, beside what it should have had."""
    lag_s: float
    """The longest that any camera's tracking was behind its newest frame."""
    cpu_s: dict[str, float] = {}
    """Processor time by kind of process, children included: capture with its FFmpeg, inference, tracking, ..."""
    counts: Counts = Counts(counted=0, true=0, matched=0)
    """How right the crossings were that were counted meanwhile."""
    late_ms: list[float] = []
    """From passing a line to the event in its stream, of all crossings stored meanwhile."""

    @property
    def fps(self) -> float:
        """Analysed frames per second."""
        return self.analysed / self.seconds

    @property
    def late_ms_percentiles(self) -> tuple[float, float]:
        """Return the median and the 99th percentile of `late_ms`; NaN without a crossing."""
        p50, p99 = np.percentile(self.late_ms or [np.nan], (50, 99))
        return float(p50), float(p99)

    @property
    def drop_share(self) -> float:
        """Return the share of dropped frames."""
        return self.dropped / max(1.0, self.analysed + self.dropped)


class Site:
    """One installation with as many cameras as are switched on at the time.

    Args:
        folder: of the installation, empty.
        footage: what its cameras play, again from the first where there are more cameras.
        max_cameras: that are in its config.json, switched off at first.
        build: checkout whose code runs. Its packages are this checkout's, so that only the code differs.
    """

    def __init__(self, folder: Path, footage: Sequence[Footage], max_cameras: int, build: Path) -> None:
        self.folder, self.footage, self.max_cameras = folder, footage, max_cameras
        self.paths = Paths(folder / "var")
        self._process: subprocess.Popen[bytes] | None = None
        # supervisorctl runs from .venv, which may know another checkout.
        self._environment = {**os.environ, "PYTHONPATH": str(folder)}
        (folder / ".venv").symlink_to(ROOT / ".venv")
        for name in LINKED:
            (folder / name).symlink_to(build / name)
        # Not a link: what supervisord reads lies beside the file itself.
        shutil.copy(build / "supervisord.conf", folder)
        self.paths.data.mkdir()

    def start(self, cameras: int) -> None:
        """Start it as `./crowdperf.sh run` does, once it is set up."""
        self._write_config(cameras)
        with (self.folder / "run.out").open("wb") as output:
            self._process = subprocess.Popen(
                [str(self.folder / ".venv/bin/python"), "-m", "crowdperf", "run"],
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_for(cameras)

    def stop(self) -> None:
        """Stop it as Ctrl-C does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(150)

    def set_camera_count(self, cameras: int) -> None:
        """Have so many cameras, as an edit of config.json and `supervisorctl update` do."""
        self._write_config(cameras)
        command = [str(self.folder / ".venv/bin/supervisorctl"), "-c", "supervisord.conf", "update"]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, env=self._environment)
        self._wait_for(cameras)

    def measure(self, cameras: int, seconds: float) -> Load:
        """Watch for at least so long."""
        first = self._wait_for_snapshot(0.0)
        cpu, heads, at = self._measure_cpu_s(), self._read_heads(), time.time() * 1e3
        began, lag_s, last = time.perf_counter(), 0.0, first
        while last.at - first.at < seconds:
            last = self._wait_for_snapshot(last.at)
            lag_s = max(lag_s, self._read_lag_s(cameras))
        cpu_after = self._measure_cpu_s()
        scale = (last.at - first.at) / (time.perf_counter() - began)
        counts = {name: _grown(first, last, name) for name in last.counters}
        due = FPS * (last.at - first.at)
        answered = {name: sum(counts.get(kind, {}).get(name, 0.0) for kind in ANSWERED) for name in names(cameras)}
        lost = [row for name, row in counts.items() if name.startswith("drops_") and name not in MEANT]
        return Load(
            seconds=last.at - first.at,
            analysed=sum(answered.values()),
            dropped=sum(sum(row.values()) for row in lost),
            min_camera_share=min(answered.values()) / due,
            lag_s=lag_s,
            cpu_s={kind: (value - cpu.get(kind, 0.0)) * scale for kind, value in cpu_after.items()},
            counts=self._tally(cameras, heads, self._read_heads()),
            late_ms=[ms - float(fields[b"ts"]) * 1e3 for ms, fields in self._read_crossings() if ms >= at],
        )

    def measure_capture_memory(self, cameras: int) -> float:
        """Bytes per camera of capture and its FFmpeg, shared pages divided among those who share them."""
        captures = (process for kind, process in self._list_processes() if kind == "capture")
        return sum(process.memory_full_info().pss for process in captures) / cameras

    def _read_crossings(self) -> Iterator[tuple[int, dict[bytes, bytes]]]:
        """Yield the crossings stored so far, each with its time in milliseconds."""
        client: Any = self._connect_redis()
        for entry, fields in client.xrange(stream_key(EVENTS)):
            if fields[b"type"] == b"LineCrossed":
                yield int(entry.split(b"-")[0]), fields

    def _read_heads(self) -> dict[str, int]:
        """Return how many frames of its clip each camera had played, as capture said last."""
        client: Any = self._connect_redis()
        keys = list(client.scan_iter(match=metrics_key("capture-*"), count=1000))
        snapshots = [decode_snapshot(raw) for raw in client.mget(keys) if raw] if keys else []
        return {name: int(head) for one in snapshots for name, head in one.gauges.get("ring_head", {}).items()}

    def _tally(self, cameras: int, first: dict[str, int], last: dict[str, int]) -> Counts:
        """Judge what was counted between two readings of `_read_heads`, but for what may not be stored yet."""
        counted: dict[str, list[Passage]] = {name: [] for name in names(cameras)}
        for _, fields in self._read_crossings():
            # Frames of a ring are counted from 1.
            at = (int(fields[b"sequence"]) - 1) / FPS
            if (name := fields[b"camera"].decode()) in counted:
                counted[name].append(Passage(at, fields[b"line"].decode(), fields[b"direction"].decode()))
        parts = []
        for index, name in enumerate(counted):
            if name in first and name in last:
                clip = self._get_footage(index)
                found = last[name] - WITHIN
                parts.append(tally(clip.truth, counted[name], clip.frames, first[name], found))
        return total(parts)

    def _get_footage(self, index: int) -> Footage:
        return self.footage[index % len(self.footage)]

    def _write_config(self, cameras: int) -> None:
        on = names(cameras)
        config = {
            "web": {"port": self._get_port()},
            "media_roots": sorted({str(one.path.parent) for one in self.footage}),
            "inference": {"device": "cpu", "runtime": "openvino"},
            "cameras": [
                {**_camera(name, self._get_footage(index)), "enabled": name in on}
                for index, name in enumerate(names(self.max_cameras))
            ],
        }
        (self.folder / "config.json").write_text(json.dumps(config))

    def _get_port(self) -> int:
        """Return the same for the site's whole life: another would restart the web process."""
        file = self.folder / "port"
        if not file.exists():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                file.write_text(str(probe.getsockname()[1]))
        return int(file.read_text())

    def _connect_redis(self) -> Any:
        return connect(self.paths.redis_url)

    def _read_snapshot(self, process: str) -> ProcessSnapshot | None:
        with contextlib.suppress(*OUTAGE):
            raw = self._connect_redis().get(metrics_key(process))
            return decode_snapshot(raw) if raw else None
        return None

    def _wait_for_snapshot(self, after: float) -> ProcessSnapshot:
        """Return the first snapshot of the inference process that is newer."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = self._read_snapshot("inference")
            if found is not None and found.at > after:
                return found
            time.sleep(0.05)
        raise TimeoutError(f"the inference process says nothing: see {self.paths.logs}")

    def _read_lag_s(self, cameras: int) -> float:
        found = self._read_snapshot("tracking-0")
        lags = found.gauges.get("tracking_lag_s", {}) if found else {}
        return max((lags.get(name, 0.0) for name in names(cameras)), default=0.0)

    def _wait_for(self, cameras: int) -> None:
        """Until frames of every camera are analysed, in two snapshots one after the other."""
        deadline = time.monotonic() + START_S + START_CAMERA_S * cameras
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the site has ended: {(self.folder / 'run.out').read_text()[-500:]}")
            first = self._read_snapshot("inference")
            if first is not None:
                second = self._wait_for_snapshot(first.at)
                grown = _grown(first, second, "frames_analysed")
                # A change of cameras restarts the process: its counters begin at zero.
                if first.pid == second.pid and all(grown.get(name, 0.0) > 0 for name in names(cameras)):
                    time.sleep(SETTLE_S)
                    return
            time.sleep(0.1)
        raise TimeoutError(f"not every one of {cameras} cameras is analysed: see {self.paths.logs}")

    def _list_processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Yield every process of a program, children included, with the kind of the program."""
        for row in SupervisorClient(self.paths.supervisor_socket).list_programs():
            if row["pid"]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    program = psutil.Process(row["pid"])
                    kind = row["name"].partition("-")[0]
                    yield from ((kind, process) for process in (program, *program.children(recursive=True)))

    def _measure_cpu_s(self) -> dict[str, float]:
        """Return the processor time up to now by kind of process."""
        spent: dict[str, float] = {}
        for kind, process in self._list_processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent[kind] = spent.get(kind, 0.0) + times.user + times.system
        return spent


@contextlib.contextmanager
def site(footage: Sequence[Footage], max_cameras: int, build: Path = ROOT) -> Iterator[Site]:
    """Yield a site that is stopped at the end.

    Args:
        footage, max_cameras, build: as `Site` has them.
    """
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as folder:
        made = Site(Path(folder), footage, max_cameras, build)
        try:
            yield made
        finally:
            with contextlib.suppress(ConfigError):
                made.stop()


def names(cameras: int) -> list[str]:
    """Return the ids of the first so many cameras."""
    return [f"camera-{number}" for number in range(cameras)]


def _camera(name: str, clip: Footage) -> dict[str, Any]:
    return {
        "id": name,
        "url": str(clip.path),
        "loop": True,
        "lines": msgspec.to_builtins(clip.lines),
        "zones": msgspec.to_builtins(clip.zones),
    }


def _grown(first: ProcessSnapshot, last: ProcessSnapshot, name: str) -> dict[str, float]:
    before = first.counters.get(name, {})
    return {camera: value - before.get(camera, 0.0) for camera, value in last.counters.get(name, {}).items()}
