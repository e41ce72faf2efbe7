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

Hook = Callable[[NDArray[np.uint8]], None]


class Arrival(NamedTuple):
    """A frame that is new in a ring, or was new and has been overwritten (`present` False, `arrived` estimated)."""

    camera: str
    sequence: int
    arrived: float
    present: bool


class Camera:
    """An open ring and how far it has been looked at."""

    def __init__(self, reader: FrameReader, seen: int, arrived: float) -> None:
        self.reader = reader
        self.seen = seen
        self.arrived = arrived
        """Arrival of the newest frame that has been looked at, seconds on the monotonic clock."""


class Cameras:
    """All rings below one prefix.

    Args:
        prefix: path of the rings without the camera id.
        staleness_s: frames older than this when a ring is opened are none of our business.
        pin, unpin: called with a ring's mapping after it is opened and before it is closed, or None.
    """

    def __init__(self, prefix: str, staleness_s: float, pin: Hook | None = None, unpin: Hook | None = None) -> None:
        self._folder, self._prefix = Path(prefix).parent, Path(prefix).name
        self._staleness = staleness_s
        self._pin, self._unpin = pin, unpin
        self.open: dict[str, Camera] = {}
        self.broken: dict[str, str] = {}
        """Camera -> why its ring cannot be read."""

    def lock_with(self, pin: Hook, unpin: Hook) -> None:
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
        ended = [name for name, camera in self.open.items() if name not in present or camera.reader.stale()]
        for name in ended:
            self._let_go(name)
        self.broken = {name: why for name, why in self.broken.items() if name in present}
        began = [name for name, path in present.items() if name not in self.open and self._take(name, path, now)]
        return began, [name for name in ended if name not in began]

    def arrivals(self) -> Iterator[Arrival]:
        """Every frame that is new since the last call, per camera in the order of sequences."""
        for name, camera in self.open.items():
            head = camera.reader.head()
            if head == camera.seen:
                continue
            first = max(camera.seen + 1, head - camera.reader.spec.slots + 1)
            missing = list(range(camera.seen + 1, first))
            for sequence in range(first, head + 1):
                stamp = camera.reader.stamp(sequence)
                if stamp is None:
                    missing.append(sequence)
                    continue
                arrived = stamp.monotonic_ns / 1e9
                yield from _overwritten(name, missing, camera.arrived, arrived)
                missing = []
                yield Arrival(name, sequence, arrived, True)
                camera.arrived, camera.seen = arrived, sequence

    def close(self) -> None:
        """Let go of every ring."""
        for name in list(self.open):
            self._let_go(name)

    def _take(self, name: str, path: Path, now: float) -> bool:
        try:
            reader = FrameReader(path, writable=self._pin is not None)
        except RingUnavailable as error:
            if self.broken.get(name) != str(error):
                log.warning("camera %s is left out: %s", name, error)
            self.broken[name] = str(error)
            return False
        self.broken.pop(name, None)
        if self._pin:
            self._pin(reader.buffer)
        seen = head = reader.head()
        while seen > max(0, head - reader.spec.slots + 1):
            stamp = reader.stamp(seen)
            if stamp is None or now - stamp.monotonic_ns / 1e9 > self._staleness:
                break
            seen -= 1
        self.open[name] = Camera(reader, seen, now)
        log.info("camera %s: ring opened, epoch %d, %s", name, reader.epoch, reader.spec)
        return True

    def _let_go(self, name: str) -> None:
        reader = self.open.pop(name).reader
        if self._unpin:
            self._unpin(reader.buffer)
        reader.close()
        log.info("camera %s: ring closed", name)


def _overwritten(camera: str, missing: list[int], since: float, until: float) -> Iterator[Arrival]:
    """The frames that were lost between two that were seen, spread evenly over the time between them."""
    for index, sequence in enumerate(missing, 1):
        yield Arrival(camera, sequence, since + (until - since) * index / (len(missing) + 1), False)
