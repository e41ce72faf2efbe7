"""Find the cameras' rings: open new ones, open replaced ones again, close those that are gone.

A ring that cannot be read affects its own camera only. It is named in `errors` and tried again at the next scan.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameReader, RingUnavailable
from crowdperf.inference.camera_feed import CameraFeed
from crowdperf.settings.base import CAMERA_ID

log = logging.getLogger(__name__)

BufferHook = Callable[[NDArray[np.uint8]], None]


class FrameArrival(NamedTuple):
    """A frame that is new in a ring."""

    feed: CameraFeed
    sequence: int
    arrived: float
    """Monotonic seconds."""
    available: bool
    """False if the frame is overwritten already; `arrived` is an estimate then."""


class RingSet:
    """All rings with one prefix.

    Args:
        prefix: path of the rings without the camera id.
        staleness_s: older frames are ignored when a ring is opened.
        pin: called with a ring's mapping after it is opened, or None.
        unpin: called with it before it is closed, or None.
    """

    def __init__(
        self, prefix: str, staleness_s: float, pin: BufferHook | None = None, unpin: BufferHook | None = None
    ) -> None:
        self._folder, self._prefix = Path(prefix).parent, Path(prefix).name
        self._staleness = staleness_s
        self._pin, self._unpin = pin, unpin
        self._closed: dict[str, CameraFeed] = {}
        """Feeds that were closed since the last scan."""
        self.feeds: dict[str, CameraFeed] = {}
        self.errors: dict[str, str] = {}
        """Camera -> why its ring cannot be read."""

    def enable_pinning(self, pin: BufferHook, unpin: BufferHook) -> None:
        """Page-lock every ring from now on; open rings are closed, and the next `scan` opens them again."""
        self.close()
        self._pin, self._unpin = pin, unpin

    def scan(self, now: float) -> list[CameraFeed]:
        """Open and close rings as they come and go; return the feeds of the cameras that are gone."""
        paths = {
            path.name[len(self._prefix) :]: path
            for path in self._folder.glob(self._prefix + "*")
            if CAMERA_ID.fullmatch(path.name[len(self._prefix) :])
        }
        for feed in list(self.feeds.values()):
            if feed.camera not in paths or feed.reader.stale():
                self._close_ring(feed)
        self.errors = {camera: error for camera, error in self.errors.items() if camera in paths}
        for camera, path in paths.items():
            if camera not in self.feeds:
                self._open_ring(camera, path, now)
        gone, self._closed = list(self._closed.values()), {}
        return gone

    def iter_arrivals(self) -> Iterator[FrameArrival]:
        """Yield every frame that is new since the last call, per camera in the order of sequences."""
        for feed in self.feeds.values():
            head = feed.reader.head()
            if head == feed.last_sequence:
                continue
            first = max(feed.last_sequence + 1, head - feed.spec.slots + 1)
            missing = list(range(feed.last_sequence + 1, first))
            for sequence in range(first, head + 1):
                stamp = feed.reader.stamp(sequence)
                if stamp is None:
                    missing.append(sequence)
                    continue
                arrived = stamp.monotonic_ns / 1e9
                yield from _estimate_overwritten(feed, missing, arrived)
                missing = []
                yield FrameArrival(feed, sequence, arrived, True)
                feed.last_arrived, feed.last_sequence = arrived, sequence

    def close(self) -> None:
        """Close every ring."""
        for feed in list(self.feeds.values()):
            self._close_ring(feed)

    def _open_ring(self, camera: str, path: Path, now: float) -> None:
        try:
            reader = FrameReader(path, writable=self._pin is not None)
        except RingUnavailable as error:
            if self.errors.get(camera) != str(error):
                log.warning("camera %s is left out: %s", camera, error)
            self.errors[camera] = str(error)
            return
        self.errors.pop(camera, None)
        if self._pin:
            self._pin(reader.buffer)
        last = head = reader.head()
        while last > max(0, head - reader.spec.slots + 1):
            stamp = reader.stamp(last)
            if stamp is None or now - stamp.monotonic_ns / 1e9 > self._staleness:
                break
            last -= 1
        feed = self.feeds[camera] = CameraFeed(camera, reader, last, now)
        if camera in self._closed:
            feed.continue_from(self._closed.pop(camera))
        log.info("camera %s: ring opened, epoch %d, %s", camera, reader.epoch, reader.spec)

    def _close_ring(self, feed: CameraFeed) -> None:
        if self._unpin:
            self._unpin(feed.reader.buffer)
        feed.reader.close()
        feed.record_drop("gone", feed.clear_pending())
        self._closed[feed.camera] = self.feeds.pop(feed.camera)
        log.info("camera %s: ring closed", feed.camera)


def _estimate_overwritten(feed: CameraFeed, missing: list[int], until: float) -> Iterator[FrameArrival]:
    """Yield overwritten frames, spread evenly over the time since the last frame that was seen."""
    since = feed.last_arrived
    for index, sequence in enumerate(missing, 1):
        yield FrameArrival(feed, sequence, since + (until - since) * index / (len(missing) + 1), False)
