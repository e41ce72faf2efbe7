"""The ring beside two bare copies of the same bytes: what a frame costs from writer to reader."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import numpy as np

from bench.harness import Row, microseconds, paired
from crowdperf.frames.ring import FrameReader, FrameWriter, RingSpec, unlink_instance

SIZES: tuple[tuple[int, int, Literal["yuv420p", "bgr24"]], ...] = (
    (640, 360, "yuv420p"),
    (1280, 720, "yuv420p"),
    (1920, 1080, "bgr24"),
)
STORES_US = 1.0


class Copying:
    """One ring with its writer and reader, and as many plain buffers as it has slots."""

    def __init__(self, width: int, height: int, pix_fmt: Literal["yuv420p", "bgr24"]) -> None:
        spec = RingSpec(width, height, pix_fmt, width, height, 4, 10.0, 0)
        path = Path(f"/dev/shm/crowdperf.bench{os.getpid()}/ring.{width}")
        self.writer = FrameWriter(path, spec, None)
        self.reader = FrameReader(path)
        # Both sides copy from and to the same kind of place, the one that the product's readers copy to.
        self.frame, self.out, *self.between = (self.reader.room() for _ in range(2 + spec.slots))
        self.frame[:] = np.random.default_rng(1).integers(0, 255, spec.frame_bytes, dtype=np.uint8)
        self._source = self.frame.data
        for buffer in self.between:
            buffer[:] = 0
        self._turn = 0

    def copy_through_ring(self) -> None:
        """Write a frame, read it back, verified."""
        self.writer.slot()[:] = self._source
        assert self.reader.read(self.writer.publish(time.time_ns(), time.monotonic_ns()), self.out)

    def copy_bare(self) -> None:
        """Make the same two copies over as many buffers, without a header."""
        self._turn = (self._turn + 1) % len(self.between)
        np.copyto(self.between[self._turn], self.frame)
        np.copyto(self.out, self.between[self._turn])

    def publish_without_copy(self) -> None:
        """Publish a frame: what it costs the writer beside the copy."""
        self.writer.slot()
        self.writer.publish(1, 1)

    def is_same(self) -> bool:
        """Check whether what was read is what was written."""
        self.out[:] = 0
        self.copy_through_ring()
        return bool((self.out == self.frame).all())

    def close(self) -> None:
        """Remove the ring."""
        self.reader.close()
        self.writer.close(unlink=False)
        unlink_instance(str(self.writer.path))


def rows(short: bool) -> list[Row]:
    """ring_write_read/<bytes> and publish_stores_us."""
    found = []
    for size in SIZES:
        pair = Copying(*size)
        assert pair.is_same()
        found.append(_compared(pair, 50 if short else 200, 15 if short else 41))
        if size == SIZES[0]:
            found.append(_stores(pair, 15 if short else 41))
        pair.close()
    return found


def _compared(pair: Copying, times: int, repetitions: int) -> Row:
    # Large pictures: fewer in a row, so that both sides are measured under the same neighbours.
    times = max(5, times * 345_600 // pair.frame.size)
    return paired(
        f"ring_write_read/{pair.frame.size}",
        lambda: microseconds(pair.copy_through_ring, times),
        lambda: microseconds(pair.copy_bare, times),
        "two np.copyto",
        repetitions=repetitions,
    )


def _stores(pair: Copying, repetitions: int) -> Row:
    return paired(
        "publish_stores_us",
        lambda: microseconds(pair.publish_without_copy, 1000),
        lambda: STORES_US,
        f"the limit of {STORES_US:g} us",
        repetitions=repetitions,
    )
