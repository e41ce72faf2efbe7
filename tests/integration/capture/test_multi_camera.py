"""Several cameras in one capture process: whatever one of them does, the others' pictures go on without a gap."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.settings.process_config import CaptureConfig
from tests.conftest import wait_until
from tests.support.capturing import CaptureProcess, RingTail, alive, make_clip, make_config
from tests.support.rings import make_ring_path
from tests.support.rtsp_server import Mount, RtspServer

TGKILL = 234
"""Number of the system call on x86-64."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def server(clip: Path) -> Iterator[RtspServer]:
    mounts = {name: Mount(clip, 10, loop=True) for name in ("good", "child", "silent")}
    with RtspServer(mounts) as running:
        yield running


def member(name: str, url: str, folder: Path, bell: Path, **changes: Any) -> CaptureConfig:
    ring = str(make_ring_path(name))
    return make_config(url, folder, **{"camera_id": name, "doorbell": str(bell), "ring": ring, **changes})


def last_snapshot(capture: CaptureProcess) -> ProcessSnapshot:
    """Return the newest metrics of the process; it must still run."""
    assert capture.process is not None
    assert capture.process.poll() is None, f"the process has ended:\n{capture.log.decode()[-3000:]}"
    wait_until(lambda: capture.snapshot is not None, what="the first metrics")
    assert capture.snapshot is not None
    return capture.snapshot


def ffmpegs_of(capture: CaptureProcess, url: str) -> list[psutil.Process]:
    """The FFmpeg children that look at `url`; others may come and go meanwhile."""
    found = []
    for child in capture.list_children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if url in child.cmdline():
                found.append(child)
    return found


def test_one_camera_s_trouble_never_reaches_its_siblings(clip: Path, server: RtspServer, tmp_path: Path) -> None:
    make = functools.partial(member, folder=clip.parent, bell=tmp_path / "bell")
    # A ring of ten seconds: this test may look away for that long without taking a picture for lost.
    good = make("good", server.url("good"), backend="pyav", queue_max=100)
    siblings = [
        make("child", server.url("child")),
        make("silent", server.url("silent"), backend="pyav", stall_s=1.0),
        make("wrong", server.url("good") + "x"),
        make("refused", "gopher://x/y", backend="pyav"),
        make("gone", "none.mp4"),
    ]
    with CaptureProcess(good, *siblings) as capture:
        tail, child, silent = RingTail(good.ring), RingTail(siblings[0].ring), RingTail(siblings[1].ring)
        for each in (tail, child, silent):
            each.collect(lambda each=each: tail.poll() and len(each.stamps) >= 3)
        (ffmpeg,) = ffmpegs_of(capture, server.url("child"))
        server.mounts["silent"].stalled = True
        ffmpeg.send_signal(signal.SIGKILL)
        child.collect(lambda: tail.poll() and child.stamps[-1].sequence > child.stamps[0].sequence + 15, 30)
        seen: list[ProcessSnapshot] = []

        def noticed() -> bool:
            tail.poll()
            seen.append(last_snapshot(capture))
            counters, texts = seen[-1].counters, seen[-1].texts["state"]
            stalls = counters.get("ffmpeg_restarts_stall", {}).get("silent", 0)
            bad = [texts.get(name) for name in ("wrong", "refused", "gone")]
            return stalls >= 1 and bad == ["misconfigured"] * 3

        wait_until(noticed, 30, "each camera's own state")
        count = len(tail.stamps)
        tail.collect(lambda: len(tail.stamps) >= count + 10, 30)
        assert seen[-1].texts["state"]["good"] == "live"
        assert seen[-1].counters["ffmpeg_restarts_total"].get("good", 0) == 0
        assert seen[-1].counters["ffmpeg_restarts_total"]["child"] == 1
        assert tail.reader is not None
        assert tail.reader.spec.slots > 100
        assert [s.sequence for s in tail.stamps] == list(range(1, len(tail.stamps) + 1)), "no frame was lost"
        server.mounts["silent"].stalled = False
        silent.collect(lambda: silent.stamps[-1].monotonic_ns > tail.stamps[-1].monotonic_ns, 30)
        children = [found.pid for found in capture.list_children()]
        assert capture.end(signal.SIGTERM) == 0
        assert not any(map(alive, children))
        assert not any(Path(each.ring).exists() for each in capture.group.cameras)
        for each in (tail, child, silent):
            each.close()


def test_kill_9_of_a_group_leaves_no_ffmpeg(clip: Path, server: RtspServer, tmp_path: Path) -> None:
    make = functools.partial(member, folder=clip.parent, bell=tmp_path / "bell", rtsp_stimeout_usec=60_000_000)
    cameras = [make(name, server.url(name)) for name in ("good", "child")]
    with CaptureProcess(*cameras) as capture:
        tails = [RingTail(camera.ring) for camera in cameras]
        for tail in tails:
            tail.collect(lambda tail=tail: len(tail.stamps) >= 3, 30)
        children = [found.pid for found in capture.list_children()]
        assert len(children) == 2
        # An FFmpeg that has something to write would also die of the broken pipe.
        for name in ("good", "child"):
            server.mounts[name].stalled = True
        capture.end(signal.SIGKILL)
        wait_until(lambda: not any(map(alive, children)), 5, "the end of FFmpeg")
        for tail in tails:
            tail.close()


def thread_of(record: Path, camera: str) -> int:
    """Native id of the thread that decodes a camera, out of the crash record."""
    rows = [line.split() for line in record.read_text().splitlines()]
    return next(int(row[4]) for row in rows if row[0] == "thread" and row[2] == camera)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of the system call")
def test_a_decoder_that_crashes_is_isolated(clip: Path, server: RtspServer, tmp_path: Path) -> None:
    """The signal goes to the very thread that decodes the camera, as a fault of its own would."""
    make = functools.partial(member, folder=clip.parent, bell=tmp_path / "bell", backend="pyav")
    good, bad = make("good", server.url("good")), make("child", server.url("child"))
    with CaptureProcess(good, bad) as capture:
        tail, other = RingTail(good.ring), RingTail(bad.ring)
        for each in (tail, other):
            each.collect(lambda each=each: len(each.stamps) >= 3, 30)
        assert capture.process is not None
        thread = thread_of(Path(capture.group.crash_record), "child")
        assert ctypes.CDLL(None).syscall(TGKILL, capture.process.pid, thread, signal.SIGSEGV) == 0
        assert capture.wait() == -signal.SIGSEGV
        last, began = tail.stamps[-1], time.monotonic()
        capture.start()
        tail.collect(lambda: tail.stamps[-1].sequence > last.sequence + 3, 30)
        other.collect(lambda: other.stamps[-1].monotonic_ns / 1e9 > began + 0.1, 30)
        assert {stamp.epoch for stamp in tail.stamps} == {last.epoch}, "the siblings go on in their rings"
        expected = {"good": "stream", "child": "none"}
        wait_until(lambda: last_snapshot(capture).texts.get("pts_source") == expected, what="which backend each has")
        assert len(psutil.Process(capture.process.pid).children()) == 1
        capture.end()
        assert b"pyav crashed on it" in capture.log
        for each in (tail, other):
            each.close()
