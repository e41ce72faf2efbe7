"""Keep the newest frames that the PPE model analysed, as JPEG in memory, for evidence requests.

The inference loop writes, the thread of `evidence_writer.py` reads, and a third thread encodes.
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
"""JPEG quality: a 1280x720 picture takes about 150 kB."""
MAX_BYTES = 256 << 20
MAX_PICTURES = 10_000

FrameKey = tuple[str, int, int]
"""Camera, epoch, sequence."""


class FrameAnalysis(NamedTuple):
    """One frame and its detections."""

    stamp: FrameStamp
    spec: RingSpec
    detections: Detections
    ppe: PpeColumns | None


class CachedFrame(NamedTuple):
    """A frame in the cache; its JPEG may still be in the encoder."""

    analysis: FrameAnalysis
    jpeg: Future[bytes]


class EvidenceCache:
    """The newest frames of all cameras, bounded in age, number and bytes. Thread-safe.

    Args:
        max_age_s: how long a frame is kept.
        max_bytes: bound of all encoded pictures together.
        max_pictures: bound of their number.
    """

    def __init__(self, max_age_s: float, max_bytes: int = MAX_BYTES, max_pictures: int = MAX_PICTURES) -> None:
        self._max_age_ns = round(max_age_s * 1e9)
        self._max_bytes, self._max_pictures = max_bytes, max_pictures
        self._lock = threading.Lock()
        # In the order of arrival, over all cameras: the oldest goes first.
        self._frames: OrderedDict[FrameKey, CachedFrame] = OrderedDict()
        self._sizes: dict[FrameKey, int] = {}
        self._bytes = 0
        self._encoder = ThreadPoolExecutor(1, "jpeg")

    def put(self, camera: str, pixels: NDArray[np.uint8], analysis: FrameAnalysis) -> None:
        """Add a frame and start to encode it.

        Args:
            camera: its id.
            pixels: a ring's picture, uint8 (frame_bytes,); owned by the cache from now on.
            analysis: what was detected in it.
        """
        key = (camera, analysis.stamp.epoch, analysis.stamp.sequence)
        jpeg = self._encoder.submit(encode_ring_frame, pixels, analysis.spec)
        with self._lock:
            self._frames[key] = CachedFrame(analysis, jpeg)
        jpeg.add_done_callback(lambda done: self._record_size(key, done))
        self.prune(analysis.stamp.monotonic_ns)

    def get(self, key: FrameKey) -> CachedFrame | None:
        """Return exactly this frame; None if it is not cached."""
        with self._lock:
            return self._frames.get(key)

    def get_after(self, missing: FrameKey) -> CachedFrame | None:
        """Return the nearest later frame of the camera; None if no later one is cached."""
        with self._lock:
            later = [key for key in self._frames if key[0] == missing[0] and key > missing]
            return self._frames[min(later)] if later else None

    def prune(self, now_ns: int | None = None) -> int:
        """Drop frames beyond the bounds and return how many; `now_ns`: monotonic time, None ignores age."""
        with self._lock:
            before = len(self._frames)
            while self._frames:
                key, oldest = next(iter(self._frames.items()))
                expired = now_ns is not None and now_ns - oldest.analysis.stamp.monotonic_ns > self._max_age_ns
                if not expired and self._bytes <= self._max_bytes and len(self._frames) <= self._max_pictures:
                    break
                del self._frames[key]
                self._bytes -= self._sizes.pop(key, 0)
            return before - len(self._frames)

    def _record_size(self, key: FrameKey, done: Future[bytes]) -> None:
        """Count the bytes of an encoded picture, unless it was dropped meanwhile."""
        if done.cancelled():
            return
        with self._lock:
            if key in self._frames:
                self._sizes[key] = len(done.result())
                self._bytes += self._sizes[key]

    def __len__(self) -> int:
        return len(self._frames)

    def close(self) -> None:
        """Stop encoding."""
        self._encoder.shutdown(wait=False, cancel_futures=True)


def encode_ring_frame(pixels: NDArray[np.uint8], spec: RingSpec) -> bytes:
    """Encode a ring's picture as JPEG, without its padding."""
    x0, y0, across, down = spec.content
    image = to_rgb(pixels, spec)[y0 : y0 + down, x0 : x0 + across, ::-1]
    return encode_jpeg(image)


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode uint8 (h, w, 3), BGR, as JPEG."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "OpenCV encodes every 8-bit picture as JPEG"
    return bytes(data)
