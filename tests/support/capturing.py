"""Captures for tests: a configuration with usual values, a capture process that can be killed, and rings read out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import psutil

from crowdperf.capture.camera_capture import CameraCapture
from crowdperf.frames.doorbell import Doorbell
from crowdperf.frames.ring import FrameReader, FrameStamp, RingUnavailable
from crowdperf.messaging.schema import CameraChanged
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg, remove_proxy_variables
from crowdperf.runtime.metrics import Metrics, ProcessSnapshot
from crowdperf.settings.process_config import CaptureConfig, CaptureGroupConfig
from tests.conftest import wait_until
from tests.support.rings import make_ring_path

NOWHERE = "unix:///nonexistent/redis.sock"


def make_config(url: str, folder: Path, **changes: Any) -> CaptureConfig:
    """Return the configuration of a camera `cam` with a ring of its own; files are allowed below `folder`."""
    values: dict[str, Any] = {
        "camera_id": "cam",
        "url": url,
        "loop": False,
        "backend": "ffmpeg",
        "rtsp_transport": "tcp",
        "ffmpeg_flags": "",
        "ffmpeg_extra_flags": "",
        "rtsp_stimeout_usec": 5_000_000,
        "pix_fmt": "yuv420p",
        "analysis_width": 640,
        "target_fps": 10.0,
        "frame_skip": 0,
        "queue_max": 2,
        "stall_s": 20.0,
        "media_roots": (str(folder),),
        "allowed_hosts": (),
        "ring": str(make_ring_path("cam")),
        "doorbell": str(folder / "doorbell.sock"),
    }
    return CaptureConfig(**{**values, **changes})


def make_clip(path: Path, seconds: float = 4, fps: int = 10, size: str = "320x240", options: str = "-g 20") -> Path:
    """Return a test pattern as H.264: every picture differs from the one before."""
    codec = "-c:v libx264 -profile:v baseline -pix_fmt yuv420p"
    source = f"testsrc=size={size}:rate={fps}:duration={seconds}"
    command = [find_ffmpeg(), "-loglevel", "error", "-y", "-f", "lavfi", "-i", source, *codec.split()]
    subprocess.run([*command, *options.split(), str(path)], check=True, stdin=subprocess.DEVNULL)
    return path


class CaptureProcess:
    """A real capture process of one camera or more; a context manager that leaves no process behind."""

    def __init__(self, config: CaptureConfig, *siblings: CaptureConfig, redis_url: str = NOWHERE) -> None:
        self.config = config
        self.group = CaptureGroupConfig(
            cameras=(config, *siblings),
            crash_record=f"{Path(config.doorbell).parent}/{uuid.uuid4().hex[:8]}.crash",
            redis_url=redis_url,
            key_prefix="",
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.snapshot: ProcessSnapshot | None = None
        """Return the newest metrics of the running process."""
        self._log_lines: list[bytes] = []
        self._log_thread: threading.Thread | None = None
        # A camera that begins waits for somebody to look.
        self.listener = Doorbell(Path(config.doorbell))

    def start(self) -> None:
        """Start it, with the configuration on its standard input and its metrics as JSON lines in its log."""
        self.snapshot = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.capture_main"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(self.group))
        self.process.stdin.close()
        self._log_thread = threading.Thread(target=self._read_log, args=(self.process.stderr,), daemon=True)
        self._log_thread.start()

    def _read_log(self, stream: IO[bytes]) -> None:
        # All the time: a process whose pipe is full would stand still at its next line.
        for line in stream:
            self._log_lines.append(line)
            if line.startswith(b"METRICS "):
                self.snapshot = msgspec.json.decode(line.removeprefix(b"METRICS "), type=ProcessSnapshot)

    @property
    def log(self) -> bytes:
        """Return its whole output so far."""
        return b"".join(self._log_lines)

    def list_children(self) -> list[psutil.Process]:
        """Return its FFmpeg children."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns its exit code."""
        process, log_thread = self.process, self._log_thread
        assert process is not None
        assert log_thread is not None
        wait_until(lambda: process.poll() is not None, what="the end of capture")
        log_thread.join()
        return process.returncode

    def __enter__(self) -> CaptureProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.end(signal.SIGKILL)
        self.listener.close()


class Camera:
    """A CameraCapture in this process, stepped by the test."""

    def __init__(self, url: str, folder: Path, **changes: Any) -> None:
        # As a capture process does.
        remove_proxy_variables()
        self.metrics = Metrics()
        self.events: list[CameraChanged] = []
        """What the site hears."""
        self.changes: list[CameraChanged] = []
        """That, and every retry."""
        self.config = make_config(url, folder, **changes)
        self._nap = threading.Event()
        self.capture = CameraCapture(self.config, self.metrics, self._take, lambda: True, self._nap.wait)
        self.tail = RingTail(self.config.ring)

    def run_until(self, condition: Callable[[], object], timeout_s: float = 30, what: str = "the state") -> None:
        def turn() -> bool:
            self.capture.step()
            self.tail.poll()
            return bool(condition())

        wait_until(turn, timeout_s, f"{what} ({self.states()}, {self.error()!r})")

    def _take(self, event: CameraChanged, is_event: bool) -> None:
        self.changes.append(event)
        if is_event:
            self.events.append(event)

    def states(self) -> list[str]:
        return [event.state for event in self.events]

    def error(self) -> str:
        return self.metrics.snapshot("x", 0).texts.get("last_error", {}).get("cam", "")

    def counter(self, name: str) -> float:
        return self.metrics.get_counter(name, "cam")


class RingTail:
    """Follows a ring across epochs and collects every frame it can get."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self.reader: FrameReader | None = None
        self.stamps: list[FrameStamp] = []
        self.pictures: list[bytes] = []
        self._next = 1

    def poll(self) -> int:
        """Take what is new; returns how many frames were collected so far."""
        if self.reader is None or self.reader.stale():
            if self.reader:
                self.reader.close()
            try:
                self.reader = FrameReader(self._path)
            except RingUnavailable:
                self.reader = None
                return len(self.stamps)
            if not self.stamps or self.stamps[-1].epoch != self.reader.epoch:
                self._next = 1
        out = np.empty(self.reader.spec.frame_bytes, np.uint8)
        for sequence in range(max(self._next, self.reader.head() - self.reader.spec.slots + 2), self.reader.head() + 1):
            stamp = self.reader.read(sequence, out)
            self._next = sequence + 1
            if stamp:
                self.stamps.append(stamp)
                self.pictures.append(out.tobytes())
        return len(self.stamps)

    def collect(self, done: Callable[[], bool], timeout_s: float = 30) -> None:
        """Poll until `done()`."""

        def polled() -> bool:
            self.poll()
            return done()

        wait_until(polled, timeout_s, f"the frames of {self._path.name}")

    def close(self) -> None:
        """Let go."""
        if self.reader:
            self.reader.close()


def decoded(path: Path, filters: str, pix_fmt: str, frame_bytes: int) -> list[bytes]:
    """Return every picture of a clip, decoded by FFmpeg alone: the reference."""
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(path), "-vf", filters, "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", pix_fmt, "-"], check=True, capture_output=True).stdout
    return [raw[i : i + frame_bytes] for i in range(0, len(raw), frame_bytes)]


def alive(pid: int) -> bool:
    """Check whether a process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
