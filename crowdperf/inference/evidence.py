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

from crowdperf.events.schema import PpeColumns
from crowdperf.frames.ring import FrameStamp, RingSpec
from crowdperf.inference.nms import Found
from crowdperf.inference.pixels import picture

QUALITY = 88
"""Of the JPEGs: a 1280x720 picture is about 150 kB."""
MOST_BYTES = 256 << 20
MOST_PICTURES = 10_000


Key = tuple[str, int, int]
"""Camera, epoch, sequence."""


class Scene(NamedTuple):
    """One picture and what was seen in it."""

    stamp: FrameStamp
    spec: RingSpec
    found: Found
    ppe: PpeColumns | None


class Held(NamedTuple):
    """A scene in the keeper; its picture is being encoded, or is."""

    scene: Scene
    jpeg: Future[bytes]


class Keeper:
    """The newest pictures of every camera, `keep_s` seconds long and bounded in number and bytes. Thread-safe."""

    def __init__(self, keep_s: float, most_bytes: int = MOST_BYTES, most_pictures: int = MOST_PICTURES) -> None:
        self._keep_ns = round(keep_s * 1e9)
        self._most_bytes, self._most_pictures = most_bytes, most_pictures
        self._lock = threading.Lock()
        # In the order of arrival: what goes first is the oldest, whoever's it is.
        self._held: OrderedDict[Key, Held] = OrderedDict()
        self._sizes: dict[Key, int] = {}
        self._bytes = 0
        self._encoder = ThreadPoolExecutor(1, "jpeg")

    def put(self, camera: str, pixels: NDArray[np.uint8], scene: Scene) -> None:
        """Keep a picture; `pixels` (a ring's picture, uint8 (frame_bytes,)) belongs to the keeper from now on."""
        key = (camera, scene.stamp.epoch, scene.stamp.sequence)
        jpeg = self._encoder.submit(encode, pixels, scene.spec)
        with self._lock:
            self._held[key] = Held(scene, jpeg)
        jpeg.add_done_callback(lambda done: self._weigh(key, done))
        self.prune(scene.stamp.monotonic_ns)

    def get(self, camera: str, epoch: int, sequence: int) -> Held | None:
        """That very frame."""
        with self._lock:
            return self._held.get((camera, epoch, sequence))

    def after(self, camera: str, epoch: int, sequence: int) -> Held | None:
        """The nearest later frame of the camera."""
        with self._lock:
            later = [key for key in self._held if key[0] == camera and key[1:] > (epoch, sequence)]
            return self._held[min(later)] if later else None

    def prune(self, now_ns: int | None = None) -> int:
        """Let go of what is too old (by the monotonic clock) or too much; returns how many pictures went."""
        with self._lock:
            before = len(self._held)
            while self._held:
                key, oldest = next(iter(self._held.items()))
                aged = now_ns is not None and now_ns - oldest.scene.stamp.monotonic_ns > self._keep_ns
                if not aged and self._bytes <= self._most_bytes and len(self._held) <= self._most_pictures:
                    break
                del self._held[key]
                self._bytes -= self._sizes.pop(key, 0)
            return before - len(self._held)

    def _weigh(self, key: Key, done: Future[bytes]) -> None:
        """An encoded picture has a size; one that has gone meanwhile has none."""
        if done.cancelled():
            return
        with self._lock:
            if key in self._held:
                self._sizes[key] = len(done.result())
                self._bytes += self._sizes[key]

    def __len__(self) -> int:
        return len(self._held)

    def close(self) -> None:
        """Encode nothing any more."""
        self._encoder.shutdown(wait=False, cancel_futures=True)


def encode(pixels: NDArray[np.uint8], spec: RingSpec) -> bytes:
    """A ring's picture as JPEG, its padding cut off."""
    x0, y0, across, down = spec.content
    image = picture(pixels, spec.pix_fmt, spec.width, spec.height)[y0 : y0 + down, x0 : x0 + across, ::-1]
    return to_jpeg(image)


def to_jpeg(image: NDArray[np.uint8]) -> bytes:
    """uint8 (h, w, 3), BGR, as JPEG."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done, "OpenCV writes every picture of bytes as JPEG"
    return bytes(data)
