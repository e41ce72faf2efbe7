"""Torn frames: a writer at full speed that is killed again and again, readers that check every copy they were given.

The long form makes ten million whole reads and more. Each picture holds its own sequence in every word; a reader that
gets a stamp looks at all of them. Small pictures, so that many reads fit into the time; one copy in four is slow, so
that it is lapped in the middle; a copy that was lapped is thrown away, and is none of the reads.
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
from crowdperf.frames.ring import FrameReader, FrameWriter, RingSpec, unlink_instance

SPEC = RingSpec(160, 90, "yuv420p", 160, 90, 2, 10.0, 0)
READERS = 2
READS_SHORT = 400_000
READS_LONG = 10_400_000
FRAMES_PER_KILL = 10_000


def write(path: str) -> None:
    """Fill every word of each picture with its sequence, as fast as it goes."""
    writer = FrameWriter(Path(path), SPEC)
    pattern = np.empty(SPEC.frame_bytes // 4, np.uint32)
    source = pattern.view(np.uint8).data
    while True:
        pattern.fill((writer.sequence + 1) & 0xFFFFFFFF)
        writer.slot()[:] = source
        writer.publish(1, 1)


def read(path: str, reads: int) -> None:
    """Ask for the newest frame until it was given `reads` times; print how often it was given, torn, lapped, older."""
    reader = FrameReader(Path(path))
    quick, slow = np.empty(SPEC.frame_bytes, np.uint8), np.empty((SPEC.frame_bytes, 16), np.uint8)[:, 0]
    given = torn = fell = last = turn = 0
    while given < reads:
        turn += 1
        head = reader.head()
        out = slow if turn % 4 == 0 else quick
        stamp = reader.read(max(1, head), out)
        fell += head < last
        last = head
        if stamp is None:
            continue
        given += 1
        found = np.ascontiguousarray(out).view(np.uint32)
        torn += bool((found != stamp.sequence & 0xFFFFFFFF).any())
    print(given, torn, reader.lapped, fell)


def rows(short: bool) -> list[Row]:
    """torn_frames (of how many given ones: `repetitions`), with the kills and laps that it takes to mean something."""
    path = Path(f"/dev/shm/crowdperf.bench{os.getpid()}/ring.torn")
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
        unlink_instance(str(path))
    watcher.close()
    given, torn, lapped, fell = (sum(column) for column in zip(*results))
    tries = given + lapped
    return [
        Row(name="torn_frames", value=torn, unit="frames", limit_or_peer="of all whole reads", repetitions=given),
        Row(name="reads_whole", value=given - torn, unit="reads", repetitions=tries, better="higher"),
        Row(name="reads_lapped", value=lapped, unit="reads", repetitions=tries),
        Row(name="sequences_that_fell", value=fell, unit="reads", repetitions=tries),
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
