"""The cameras that inference serves: found by their ring files, opened again when replaced, let go when gone.

A ring that cannot be read concerns its own camera only: it is left out, named in `broken`, and tried again at the next
scan.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameReader, RingUnavailable
from crowdperf.settings.base import CAMERA_ID

log = logging.getLogger(__name__)

BufferHook = Callable[[NDArray[np.uint8]], None]


class FrameArrival(NamedTuple):
    """A frame that is new in a ring, or was new and has been overwritten (`present` False, `arrived` estimated)."""

    camera: str
    sequence: int
    arrived: float
    available: bool


class OpenRing:
    """An open ring and how far it has been looked at."""

    def __init__(self, reader: FrameReader, last_sequence: int, last_arrived: float) -> None:
        self.reader = reader
        self.last_sequence = last_sequence
        self.last_arrived = last_arrived
        """Arrival of the newest frame that has been looked at, seconds on the monotonic clock."""


class RingSet:
    """All rings below one prefix.

    Args:
        prefix: path of the rings without the camera id.
        staleness_s: frames older than this when a ring is opened are none of our business.
        pin, unpin: called with a ring's mapping after it is opened and before it is closed, or None.
    """

    def __init__(
        self, prefix: str, staleness_s: float, pin: BufferHook | None = None, unpin: BufferHook | None = None
    ) -> None:
        self._folder, self._prefix = Path(prefix).parent, Path(prefix).name
        self._staleness = staleness_s
        self._pin, self._unpin = pin, unpin
        self.rings: dict[str, OpenRing] = {}
        self.errors: dict[str, str] = {}
        """Camera -> why its ring cannot be read."""

    def enable_pinning(self, pin: BufferHook, unpin: BufferHook) -> None:
        """Have every ring page-locked from now on. Those that are open are let go; the next `scan` opens them again."""
        self.close()
        self._pin, self._unpin = pin, unpin

    def scan(self, now: float) -> tuple[list[str], list[str]]:
        """Look which rings there are; returns the cameras that began (or began again) and those that ended."""
        present = {
            path.name[len(self._prefix) :]: path
            for path in self._folder.glob(self._prefix + "*")
            if CAMERA_ID.fullmatch(path.name[len(self._prefix) :])
        }
        ended = [name for name, camera in self.rings.items() if name not in present or camera.reader.stale()]
        for name in ended:
            self._close_ring(name)
        self.errors = {name: why for name, why in self.errors.items() if name in present}
        began = [name for name, path in present.items() if name not in self.rings and self._open_ring(name, path, now)]
        return began, [name for name in ended if name not in began]

    def iter_arrivals(self) -> Iterator[FrameArrival]:
        """Every frame that is new since the last call, per camera in the order of sequences."""
        for name, camera in self.rings.items():
            head = camera.reader.head()
            if head == camera.last_sequence:
                continue
            first = max(camera.last_sequence + 1, head - camera.reader.spec.slots + 1)
            missing = list(range(camera.last_sequence + 1, first))
            for sequence in range(first, head + 1):
                stamp = camera.reader.stamp(sequence)
                if stamp is None:
                    missing.append(sequence)
                    continue
                arrived = stamp.monotonic_ns / 1e9
                yield from _estimate_overwritten(name, missing, camera.last_arrived, arrived)
                missing = []
                yield FrameArrival(name, sequence, arrived, True)
                camera.last_arrived, camera.last_sequence = arrived, sequence

    def close(self) -> None:
        """Let go of every ring."""
        for name in list(self.rings):
            self._close_ring(name)

    def _open_ring(self, name: str, path: Path, now: float) -> bool:
        try:
            reader = FrameReader(path, writable=self._pin is not None)
        except RingUnavailable as error:
            if self.errors.get(name) != str(error):
                log.warning("camera %s is left out: %s", name, error)
            self.errors[name] = str(error)
            return False
        self.errors.pop(name, None)
        if self._pin:
            self._pin(reader.buffer)
        seen = head = reader.head()
        while seen > max(0, head - reader.spec.slots + 1):
            stamp = reader.stamp(seen)
            if stamp is None or now - stamp.monotonic_ns / 1e9 > self._staleness:
                break
            seen -= 1
        self.rings[name] = OpenRing(reader, seen, now)
        log.info("camera %s: ring opened, epoch %d, %s", name, reader.epoch, reader.spec)
        return True

    def _close_ring(self, name: str) -> None:
        reader = self.rings.pop(name).reader
        if self._unpin:
            self._unpin(reader.buffer)
        reader.close()
        log.info("camera %s: ring closed", name)


def _estimate_overwritten(camera: str, missing: list[int], since: float, until: float) -> Iterator[FrameArrival]:
    """The frames that were lost between two that were seen, spread evenly over the time between them."""
    for index, sequence in enumerate(missing, 1):
        yield FrameArrival(camera, sequence, since + (until - since) * index / (len(missing) + 1), False)
