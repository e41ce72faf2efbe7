"""A whole site for a bench: the product under supervisord, in a temporary folder, on the clips of the demo."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from crowdperf.cli import demo as demo
from crowdperf.demo.scenes import SCENES
from crowdperf.messaging.process_metrics import decode_snapshot, metrics_key
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation
from crowdperf.settings.environment import Paths
from crowdperf.supervision.control import SupervisorClient

ROOT = Path(__file__).resolve().parent.parent
CLIPS = ROOT / "var" / "demo"
LINKED = (".venv", "crowdperf", "web", "models")
FPS = 10.0
START_S = 90.0
SETTLE_S = 3.0
"""From the first frames of all cameras on: other processes are still starting."""
MEANT = ("drops_paced", "drops_skipped")
"""Frames that the configuration asks to leave out: no loss."""


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
    cpu_s: float
    """Processor time of the whole site."""
    capture_cpu_s: float
    """The part of the camera programs and their FFmpeg children."""

    @property
    def fps(self) -> float:
        """Analysed frames per second."""
        return self.analysed / self.seconds

    @property
    def drop_share(self) -> float:
        """Return the share of dropped frames."""
        return self.dropped / max(1.0, self.analysed + self.dropped)


class Site:
    """One installation with as many demo cameras as are switched on at the time."""

    def __init__(self, folder: Path, max_cameras: int) -> None:
        self.folder, self.max_cameras = folder, max_cameras
        self.paths = Paths(folder / "var")
        self._process: subprocess.Popen[bytes] | None = None
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        # Not a link: what supervisord reads lies beside the file itself.
        shutil.copy(ROOT / "supervisord.conf", folder)
        self.paths.data.mkdir()

    def start(self, cameras: int) -> None:
        """Start it as `./crowdperf.sh run` does, once it is set up."""
        self._write_config(cameras)
        with (self.folder / "run.out").open("wb") as output:
            self._process = subprocess.Popen(
                [str(self.folder / ".venv/bin/python"), "-m", "crowdperf", "run"],
                cwd=self.folder,
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
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        self._wait_for(cameras)

    def measure(self, cameras: int, seconds: float) -> Load:
        """Watch for at least so long."""
        first = self._wait_for_snapshot(0.0)
        cpu, capture = self._measure_cpu_s()
        began, lag_s, last = time.perf_counter(), 0.0, first
        while last.at - first.at < seconds:
            last = self._wait_for_snapshot(last.at)
            lag_s = max(lag_s, self._read_lag_s(cameras))
        cpu_after, capture_after = self._measure_cpu_s()
        scale = (last.at - first.at) / (time.perf_counter() - began)
        counts = {name: _grown(first, last, name) for name in last.counters}
        due = dict.fromkeys(names(cameras), FPS * (last.at - first.at))
        analysed = counts.get("frames_analysed", {})
        lost = [row for name, row in counts.items() if name.startswith("drops_") and name not in MEANT]
        return Load(
            seconds=last.at - first.at,
            analysed=sum(analysed.values()),
            dropped=sum(sum(row.values()) for row in lost),
            min_camera_share=min(analysed.get(name, 0.0) / due[name] for name in due),
            lag_s=lag_s,
            cpu_s=(cpu_after - cpu) * scale,
            capture_cpu_s=(capture_after - capture) * scale,
        )

    def measure_capture_memory(self) -> int:
        """Bytes per camera program and its FFmpeg, shared pages divided among those who share them."""
        programs = [
            row
            for row in SupervisorClient(self.paths.supervisor_socket).list_programs()
            if row["name"].startswith("capture-")
        ]
        return sum(process.memory_full_info().pss for process in self._list_processes("capture-")) // len(programs)

    def measure_crossing_delays_ms(self, seconds: float) -> list[float]:
        """Measure from passing a line to the event in its stream, for all crossings stored meanwhile."""
        client: Any = self._connect_redis()
        began = f"{time.time_ns() // 1_000_000}-0"
        time.sleep(seconds)
        return [
            int(entry.split(b"-")[0]) - float(fields[b"ts"]) * 1e3
            for entry, fields in client.xrange(stream_key(EVENTS), began)
            if fields[b"type"] == b"LineCrossed"
        ]

    def _write_config(self, cameras: int) -> None:
        on = names(cameras)
        config = {
            "web": {"port": self._get_port()},
            "media_roots": [str(CLIPS)],
            "inference": {"device": "cpu", "runtime": "openvino"},
            "cameras": [
                {**_camera(name, index), "enabled": name in on} for index, name in enumerate(names(self.max_cameras))
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
        deadline = time.monotonic() + START_S
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

    def _list_processes(self, prefix: str = "") -> list[psutil.Process]:
        """Processes of the programs whose name begins so, children included."""
        found = []
        for row in SupervisorClient(self.paths.supervisor_socket).list_programs():
            if row["pid"] and row["name"].startswith(prefix):
                with contextlib.suppress(psutil.NoSuchProcess):
                    program = psutil.Process(row["pid"])
                    found += [program, *program.children(recursive=True)]
        return found

    def _measure_cpu_s(self) -> tuple[float, float]:
        """Processor time up to now: of everything, and of the camera programs."""
        return _spent(self._list_processes()), _spent(self._list_processes("capture-"))


@contextlib.contextmanager
def site(max_cameras: int) -> Iterator[Site]:
    """Yield a site that is stopped at the end; its clips are rendered where they are missing."""
    demo.main(["--out", str(CLIPS), "--if-missing"], Installation())
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as folder:
        made = Site(Path(folder), max_cameras)
        try:
            yield made
        finally:
            with contextlib.suppress(ConfigError):
                made.stop()


def names(cameras: int) -> list[str]:
    """Return the ids of the first so many cameras."""
    return [f"camera-{number}" for number in range(cameras)]


def clip(index: int) -> Path:
    """Return what a camera plays: both scenes in turn."""
    return CLIPS / f"{list(SCENES)[index % len(SCENES)]}.mp4"


def _camera(name: str, index: int) -> dict[str, Any]:
    scene = SCENES[clip(index).stem]
    return {
        "id": name,
        "url": str(clip(index)),
        "loop": True,
        "lines": msgspec.to_builtins(scene.lines),
        "zones": msgspec.to_builtins(scene.zones),
    }


def _grown(first: ProcessSnapshot, last: ProcessSnapshot, name: str) -> dict[str, float]:
    before = first.counters.get(name, {})
    return {camera: value - before.get(camera, 0.0) for camera, value in last.counters.get(name, {}).items()}


def _spent(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
