"""JPEG pictures from the rings. All calls block for milliseconds: run them in threads, never on the event loop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameReader, FrameStamp, RingSpec, RingUnavailable
from crowdperf.web.live.rate_control import PictureFormat

FULL_FORMAT = PictureFormat()


class EncodedPicture(NamedTuple):
    """An encoded frame, cropped to the source picture."""

    epoch: int
    sequence: int
    captured_at_ns: int
    width: int
    height: int
    jpeg: bytes


class RingState(NamedTuple):
    """State of a ring for /debug."""

    epoch: int
    head: int
    age_s: float | None
    """Of the newest frame; None before the first."""
    slots: int
    width: int
    height: int
    pix_fmt: str
    lapped: int


class RingView:
    """Read one camera's ring; reopen it when capture replaces it. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._reader: FrameReader | None = None
        self._buffer: NDArray[np.uint8] = np.empty(0, np.uint8)

    def encode_newest(self) -> EncodedPicture | None:
        """Encode the newest frame at its full size; see `encode_frame`."""
        return self.encode_frame((FULL_FORMAT,)).get(FULL_FORMAT)

    def encode_frame(
        self,
        formats: Collection[PictureFormat],
        boxes_frame: tuple[int, int] | None = None,
        after: tuple[int, int] = (0, 0),
    ) -> dict[PictureFormat, EncodedPicture]:
        """Encode the frame of the boxes, or the nearest newer one that is intact; without boxes the newest.

        Args:
            formats: Formats to encode; one JPEG for each.
            boxes_frame: (epoch, sequence) of the boxes to draw.
            after: (epoch, sequence) of the last picture; only newer frames count.

        Returns:
            Format -> picture; empty without a newer frame.

        Raises:
            RingUnavailable: No ring, or no fresh frame in it: the camera is down.
        """
        with self._lock:
            reader = self._open()
            head = reader.head()
            newest = reader.stamp(head)
            if newest is not None and not _is_fresh(newest, reader.spec):
                raise RingUnavailable(f"no new frame in {str(self._path)!r}")
            if head == 0:
                raise RingUnavailable(f"no frame yet in {str(self._path)!r}")
            if not formats:
                return {}
            first = head
            if boxes_frame is not None and boxes_frame[0] == reader.epoch and boxes_frame[1] <= head:
                first = max(boxes_frame[1], head - reader.spec.slots + 1, 1)
            if after[0] == reader.epoch:
                first = max(first, after[1] + 1)
            for sequence in range(first, head + 1):
                stamp = reader.read(sequence, self._buffer)
                if stamp is not None:
                    return _encode(self._buffer, stamp, reader.spec, formats)
            return {}

    def read_state(self) -> RingState:
        """Read the ring's state.

        Raises:
            RingUnavailable: There is no ring.
        """
        with self._lock:
            reader = self._open()
            head = reader.head()
            stamp = reader.stamp(head)
            age = (time.monotonic_ns() - stamp.monotonic_ns) / 1e9 if stamp else None
            spec = reader.spec
            return RingState(reader.epoch, head, age, spec.slots, spec.width, spec.height, spec.pix_fmt, reader.lapped)

    def is_live(self) -> bool:
        """Check whether the camera delivers fresh frames."""
        with self._lock, contextlib.suppress(RingUnavailable):
            reader = self._open()
            stamp = reader.stamp(reader.head())
            return stamp is not None and _is_fresh(stamp, reader.spec)
        return False

    def close(self) -> None:
        """Close the ring."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._reader = None

    def _open(self) -> FrameReader:
        if self._reader is not None and self._reader.stale():
            self._reader.close()
            self._reader = None
        if self._reader is None:
            self._reader = FrameReader(self._path)
            self._buffer = self._reader.room()
        return self._reader


def _is_fresh(stamp: FrameStamp, spec: RingSpec) -> bool:
    """Check the age of a frame: cameras may pause around key frames, and slow ones longer."""
    limit_s = max(2.0, 5.0 / spec.target_fps) if spec.target_fps else 2.0
    return (time.monotonic_ns() - stamp.monotonic_ns) / 1e9 <= limit_s


def _encode(
    frame: NDArray[np.uint8], stamp: FrameStamp, spec: RingSpec, formats: Collection[PictureFormat]
) -> dict[PictureFormat, EncodedPicture]:
    """Encode the ring's picture without its padding; yuv420p is BT.601, limited range."""
    if spec.pix_fmt == "yuv420p":
        whole = cv2.cvtColor(frame.reshape(spec.height * 3 // 2, spec.width), cv2.COLOR_YUV2BGR_I420)
    else:
        whole = frame.reshape(spec.height, spec.width, 3)
    x0, y0, width, height = spec.content
    picture = whole[y0 : y0 + height, x0 : x0 + width]
    return {form: _encode_jpeg(picture, stamp, form) for form in formats}


def _encode_jpeg(picture: NDArray[np.uint8], stamp: FrameStamp, picture_format: PictureFormat) -> EncodedPicture:
    height, width = picture.shape[:2]
    if 0 < picture_format.width < width:
        width, height = picture_format.width, max(1, round(height * picture_format.width / width))
        # INTER_AREA: other methods flicker when they shrink.
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, picture_format.quality])
    assert done, "a uint8 BGR picture can always be encoded"
    return EncodedPicture(stamp.epoch, stamp.sequence, stamp.captured_at_ns, width, height, jpeg.tobytes())
