"""A writer at full speed, readers that copy, every copy checks itself; the writer is killed in the middle.

The short form runs a few seconds; CROWDPERF_LONG=1 makes it a minute with more kills.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crowdperf.frames.ring import FrameReader, FrameWriter, RingSpec
from tests.conftest import wait_until
from tests.support.rings import make_ring_path

LONG = os.environ.get("CROWDPERF_LONG") == "1"
KILLS = 20 if LONG else 3
SPEC = RingSpec(640, 360, "yuv420p", 1920, 1080, 2, 10.0, 0)
READERS = 2


def write(path: str) -> None:
    """Fill every word of each picture with its sequence, as fast as it goes."""
    writer = FrameWriter(Path(path), SPEC)
    while True:
        np.frombuffer(writer.slot(), np.uint32)[:] = writer.sequence + 1
        writer.publish(time.time_ns(), time.monotonic_ns())


def read(path: str, stop: str) -> None:
    """Copy the newest frame until the file `stop` is there, and print the whole, torn and lapped copies.

    It prints also how often sequences fell. Its first copies are marked by the file `stop`.pid.
    """
    reader = FrameReader(Path(path))
    # Copying into every other byte takes so long that the writer laps the copy again and again.
    quick, slow = np.empty(SPEC.frame_bytes, np.uint8), np.empty((SPEC.frame_bytes, 2), np.uint8)[:, 0]
    whole = torn = fell = last = turn = 0
    while not (whole > 100 and reader.lapped and Path(stop).exists()):
        head = reader.head()
        turn += 1
        out = slow if turn % 4 == 0 else quick
        stamp = reader.read(max(1, head), out)
        if stamp is None:
            continue
        whole += 1
        if whole == 1:
            Path(f"{stop}.{os.getpid()}").touch()
        torn += not bool((np.ascontiguousarray(out).view(np.uint32) == stamp.sequence).all())
        fell += head < last
        last = head
    print(whole, torn, reader.lapped, fell)


@pytest.fixture
def ring_path() -> Path:
    return make_ring_path("torn")


def _spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.stress.test_ring_torn", *arguments], stdout=subprocess.PIPE, text=True
    )


def wait_for_frames(watcher: FrameReader, count: int, timeout_s: float) -> None:
    """Wait until so many more frames have been written."""
    goal = watcher.head() + count
    wait_until(lambda: watcher.head() >= goal, timeout_s, "the writer's progress")


def has_grown(watcher: FrameReader, before: int) -> bool:
    return watcher.head() > before


def test_no_torn_frame_under_a_killed_writer(ring_path: Path, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    writer = _spawn("write", str(ring_path))
    wait_until(ring_path.exists, what="the ring")
    watcher = FrameReader(ring_path)
    readers = [_spawn("read", str(ring_path), str(stop)) for _ in range(READERS)]
    wait_until(lambda: len(list(tmp_path.glob("stop.*"))) == READERS, 60, "the readers at work")
    for _ in range(KILLS):
        wait_for_frames(watcher, 20_000 if LONG else 1_500, 120)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        before = watcher.head()
        writer = _spawn("write", str(ring_path))
        wait_until(functools.partial(has_grown, watcher, before), what="the restarted writer")
        assert not watcher.stale()
    wait_for_frames(watcher, 1_000, 60)
    stop.touch()
    results = [[int(word) for word in reader.communicate(timeout=300)[0].split()] for reader in readers]
    writer.kill()
    writer.wait()
    watcher.close()
    for whole, torn, lapped, fell in results:
        assert whole > 100
        assert lapped > 0, "the readers were never lapped: the test did not reach its subject"
        assert torn == 0
        assert fell == 0


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"write": write, "read": read}
    commands[sys.argv[1]](*sys.argv[2:])
