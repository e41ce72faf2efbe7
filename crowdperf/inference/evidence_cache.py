"""Pictures for evidence: those that the PPE model looked at are kept in memory for a while.

The working loop fills the keeper, the clerk's thread (`clerk.py`) reads it, and pictures are encoded on a thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameStamp, RingSpec
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import to_rgb

JPEG_QUALITY = 88
"""Of the JPEGs: a 1280x720 picture is about 150 kB."""
MAX_BYTES = 256 << 20
MAX_PICTURES = 10_000


FrameKey = tuple[str, int, int]
"""Camera, epoch, sequence."""


class FrameAnalysis(NamedTuple):
    """One picture and what was seen in it."""

    stamp: FrameStamp
    spec: RingSpec
    detections: Detections
    ppe: PpeColumns | None


class CachedFrame(NamedTuple):
    """A scene in the keeper; its picture is being encoded, or is."""

    analysis: FrameAnalysis
    jpeg: Future[bytes]


class EvidenceCache:
    """The newest pictures of every camera, `keep_s` seconds long and bounded in number and bytes. Thread-safe."""

    def __init__(self, max_age_s: float, max_bytes: int = MAX_BYTES, max_pictures: int = MAX_PICTURES) -> None:
        self._max_age_ns = round(max_age_s * 1e9)
        self._max_bytes, self._max_pictures = max_bytes, max_pictures
        self._lock = threading.Lock()
        # In the order of arrival: what goes first is the oldest, whoever's it is.
        self._frames: OrderedDict[FrameKey, CachedFrame] = OrderedDict()
        self._sizes: dict[FrameKey, int] = {}
        self._bytes = 0
        self._encoder = ThreadPoolExecutor(1, "jpeg")

    def put(self, camera: str, pixels: NDArray[np.uint8], analysis: FrameAnalysis) -> None:
        """Keep a picture; `pixels` (a ring's picture, uint8 (frame_bytes,)) belongs to the keeper from now on."""
        key = (camera, analysis.stamp.epoch, analysis.stamp.sequence)
        jpeg = self._encoder.submit(encode_ring_frame, pixels, analysis.spec)
        with self._lock:
            self._frames[key] = CachedFrame(analysis, jpeg)
        jpeg.add_done_callback(lambda done: self._record_size(key, done))
        self.prune(analysis.stamp.monotonic_ns)

    def get(self, camera: str, epoch: int, sequence: int) -> CachedFrame | None:
        """That very frame."""
        with self._lock:
            return self._frames.get((camera, epoch, sequence))

    def get_after(self, camera: str, epoch: int, sequence: int) -> CachedFrame | None:
        """The nearest later frame of the camera."""
        with self._lock:
            later = [key for key in self._frames if key[0] == camera and key[1:] > (epoch, sequence)]
            return self._frames[min(later)] if later else None

    def prune(self, now_ns: int | None = None) -> int:
        """Let go of what is too old (by the monotonic clock) or too much; returns how many pictures went."""
        with self._lock:
            before = len(self._frames)
            while self._frames:
                key, oldest = next(iter(self._frames.items()))
                aged = now_ns is not None and now_ns - oldest.analysis.stamp.monotonic_ns > self._max_age_ns
                if not aged and self._bytes <= self._max_bytes and len(self._frames) <= self._max_pictures:
                    break
                del self._frames[key]
                self._bytes -= self._sizes.pop(key, 0)
            return before - len(self._frames)

    def _record_size(self, key: FrameKey, done: Future[bytes]) -> None:
        """An encoded picture has a size; one that has gone meanwhile has none."""
        if done.cancelled():
            return
        with self._lock:
            if key in self._frames:
                self._sizes[key] = len(done.result())
                self._bytes += self._sizes[key]

    def __len__(self) -> int:
        return len(self._frames)

    def close(self) -> None:
        """Encode nothing any more."""
        self._encoder.shutdown(wait=False, cancel_futures=True)


def encode_ring_frame(pixels: NDArray[np.uint8], spec: RingSpec) -> bytes:
    """A ring's picture as JPEG, its padding cut off."""
    x0, y0, across, down = spec.content
    image = to_rgb(pixels, spec.pix_fmt, spec.width, spec.height)[y0 : y0 + down, x0 : x0 + across, ::-1]
    return encode_jpeg(image)


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """uint8 (h, w, 3), BGR, as JPEG."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "OpenCV writes every picture of bytes as JPEG"
    return bytes(data)
