"""Torn frames: a writer at full speed that is killed again and again, readers that check every copy they were given.

The long form makes ten million reads and more. Each picture holds its own sequence in every word; a reader that gets a
stamp looks at all of them. Small pictures, so that many reads fit into the time; one reader in four copies slowly, so
that it is lapped in the middle of its copies.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench.harness import Row
from crowdperf.frames.ring import FrameReader, FrameWriter, RingSpec

SPEC = RingSpec(160, 90, "yuv420p", 160, 90, 2, 10.0, 0)
READERS = 2
READS_SHORT = 400_000
READS_LONG = 10_400_000
FRAMES_PER_KILL = 10_000


def write(path: str) -> None:
    """Fill every word of each picture with its sequence, as fast as it goes."""
    writer = FrameWriter(Path(path), SPEC)
    pattern = np.empty(SPEC.frame_bytes // 4, np.uint32)
    source = memoryview(pattern.view(np.uint8))  # type: ignore[arg-type]
    while True:
        pattern.fill((writer.sequence + 1) & 0xFFFFFFFF)
        writer.slot()[:] = source
        writer.publish(1, 1)


def read(path: str, reads: int) -> None:
    """Ask for the newest frame `reads` times; print how many came whole, came torn, were lapped, and went back."""
    reader = FrameReader(Path(path))
    quick, slow = np.empty(SPEC.frame_bytes, np.uint8), np.empty((SPEC.frame_bytes, 16), np.uint8)[:, 0]
    whole = torn = fell = last = 0
    for turn in range(reads):
        head = reader.head()
        out = slow if turn % 4 == 0 else quick
        stamp = reader.read(max(1, head), out)
        fell += head < last
        last = head
        if stamp is None:
            continue
        whole += 1
        found = np.ascontiguousarray(out).view(np.uint32)
        torn += bool((found != stamp.sequence & 0xFFFFFFFF).any())
    print(whole, torn, reader.lapped, fell)


def rows(short: bool) -> list[Row]:
    """torn_frames (of how many reads: `repetitions`), with the kills and laps that were needed to mean something."""
    path = Path(f"/dev/shm/crowdperf.bench{os.getpid()}.torn")
    each = (READS_SHORT if short else READS_LONG) // READERS
    writer = _spawn("write", str(path))
    readers: list[subprocess.Popen[str]] = []
    kills = 0
    try:
        while not path.exists():
            select.select([], [], [], 0.01)
        watcher = FrameReader(path)
        readers = [_spawn("read", str(path), str(each)) for _ in range(READERS)]
        while any(reader.poll() is None for reader in readers):
            _progress(watcher, readers)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            kills += 1
            writer = _spawn("write", str(path))
        results = [[int(word) for word in reader.communicate()[0].split()] for reader in readers]
    finally:
        for process in (writer, *readers):
            process.kill()
            process.wait()
        path.unlink(missing_ok=True)
    watcher.close()
    whole, torn, lapped, fell = (sum(column) for column in zip(*results))
    reads = each * READERS
    return [
        Row(name="torn_frames", value=torn, unit="frames", limit_or_peer="of all reads", repetitions=reads),
        Row(name="reads_whole", value=whole, unit="reads", repetitions=reads, better="higher"),
        Row(name="reads_lapped", value=lapped, unit="reads", repetitions=reads),
        Row(name="sequences_that_fell", value=fell, unit="reads", repetitions=reads),
        Row(name="writer_kills", value=kills, unit="kills", better="higher"),
    ]


def _progress(watcher: FrameReader, readers: list[subprocess.Popen[str]]) -> None:
    """Let the present writer write for a while."""
    goal = watcher.head() + FRAMES_PER_KILL
    while watcher.head() < goal and any(reader.poll() is None for reader in readers):
        time.sleep(0.01)


def _spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "bench.stress.ring", *arguments], stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        read(sys.argv[2], int(sys.argv[3]))
