"""The doorbell beside a bare datagram socket: from another process's send until the listener runs.

One child sends in turn through a ring's `publish` and through a bare socket, with pauses, so that each of its messages
finds the listener asleep, and both kinds meet the same neighbours. Each message carries the time at which it was sent.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import Row, compared
from crowdperf.frames.doorbell import Doorbell
from crowdperf.frames.ring import FrameReader, FrameWriter, RingSpec, unlink_instance

PAUSE_S = 0.002
BLOCK = 100
DEADLINE_S = 10.0


def send(ring: str, bell: str, bare: str, rounds: int) -> None:
    """Send as the child: one frame without a picture, one bare message, and so on."""
    writer = FrameWriter(Path(ring), RingSpec(160, 90, "yuv420p", 160, 90, 4, 10.0, 0), Path(bell))
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for _ in range(rounds):
        _wait_for_turn()
        writer.slot()
        writer.publish(0, time.monotonic_ns())
        _wait_for_turn()
        plain.sendto(time.monotonic_ns().to_bytes(8, "little"), bare)
    sys.stdin.buffer.read()
    writer.close(unlink=True)


def _wait_for_turn() -> None:
    """Wait until the listener says that it is about to listen, and long enough for it to fall asleep."""
    os.read(0, 1)
    time.sleep(PAUSE_S)


def rows(short: bool) -> list[Row]:
    """wakeup_vs_datagram (medians), wakeup_vs_datagram/p99 and the two in microseconds."""
    blocks = 5 if short else 20
    ours, bare = _measure(blocks * BLOCK)

    def pairs(share: float) -> list[tuple[float, float]]:
        cuts = [slice(i * BLOCK, (i + 1) * BLOCK) for i in range(blocks)]
        at = min(BLOCK - 1, int(BLOCK * share))
        return [(sorted(ours[cut])[at], sorted(bare[cut])[at]) for cut in cuts]

    return [
        compared("wakeup_vs_datagram", pairs(0.5), "bare datagram socket"),
        compared("wakeup_vs_datagram/p99", pairs(0.99), "bare datagram socket"),
        Row(name="wakeup_bare_us", value=statistics.median(bare), unit="us", repetitions=len(bare)),
    ]


def _measure(rounds: int) -> tuple[list[float], list[float]]:
    """Microseconds from send to wake-up, by the ring and by the bare socket."""
    ring = Path(f"/dev/shm/crowdperf.bench{os.getpid()}/ring.wakeup")
    with tempfile.TemporaryDirectory() as folder:
        bell = Doorbell(Path(folder) / "bell")
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        plain.bind(f"{folder}/bare")
        # As bare as it gets: blocked in recv(2), without the poll(2) that Python's own time-outs put before it.
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(DEADLINE_S), 0))
        arguments = ["child", str(ring), str(bell.path), f"{folder}/bare", str(rounds)]
        child = subprocess.Popen([sys.executable, "-m", "bench.micro.wakeup", *arguments], stdin=subprocess.PIPE)
        assert child.stdin is not None
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not ring.exists():
                assert time.monotonic() < deadline, "the sender did not start"
                select.select([], [], [], 0.01)
            reader = FrameReader(ring)
            go = child.stdin.fileno()
            ours, bare = [], []
            for _ in range(rounds):
                os.write(go, b".")
                assert bell.wait(DEADLINE_S)
                woken = time.monotonic_ns()
                stamp = reader.stamp(reader.head())
                assert stamp
                ours.append((woken - stamp.monotonic_ns) / 1000)
                os.write(go, b".")
                sent = int.from_bytes(plain.recv(8), "little")
                bare.append((time.monotonic_ns() - sent) / 1000)
            reader.close()
            child.stdin.close()
            child.wait(DEADLINE_S)
        finally:
            child.kill()
            child.wait()
            bell.close()
            plain.close()
            unlink_instance(str(ring))
    return ours, bare


if __name__ == "__main__":
    send(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
