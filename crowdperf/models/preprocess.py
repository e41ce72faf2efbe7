"""Preprocessing on the processor: ring bytes to a padded RGB input, and boxes back to the source picture.

The ring holds the picture at the analysis size, and the model runs at that size. The picture is only padded, centred,
to the next multiples of 32: 640x360 becomes 640x384. A ring that is larger for the PPE model is first scaled to
`RingSpec.model_width`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.models.registry import ModelError

STRIDE = 32
"""The coarsest grid of the YOLO family: both sides of its input must be multiples of it."""
PAD_VALUE = 114
"""Grey value (0..255, each channel) that Ultralytics pads with, in training as well."""

PixelFormat = Literal["yuv420p", "bgr24"]


class Letterbox(NamedTuple):
    """Format of a ring picture, and its place in the model input in pixels.

    The input is `width` x `height`. The picture lies at (`left`, `top`) and is `inner_width` x `inner_height` there.
    """

    ring_width: int
    ring_height: int
    width: int
    height: int
    left: int
    top: int
    inner_width: int
    inner_height: int
    pix_fmt: PixelFormat
    """Planes Y, U, V (BT.601, limited range), or packed BGR."""

    @property
    def scaled(self) -> bool:
        """True if the picture is resized."""
        return (self.inner_width, self.inner_height) != (self.ring_width, self.ring_height)

    def make_canvas(self, count: int) -> NDArray[np.uint8]:
        """Create a grey uint8 (count, height, width, 3) input; `paint` never changes the padding."""
        return np.full((count, self.height, self.width, 3), PAD_VALUE, dtype=np.uint8)

    def paint(self, frame: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Write the RGB picture of a ring frame into its place in one input, uint8 (height, width, 3)."""
        inside = out[self.top : self.top + self.inner_height, self.left : self.left + self.inner_width]
        rgb = _convert(frame, self.pix_fmt, self.ring_width, self.ring_height)
        if self.scaled:
            inside[...] = cv2.resize(rgb, (self.inner_width, self.inner_height), interpolation=cv2.INTER_LINEAR)
        else:
            inside[...] = rgb

    def to_source(self, boxes: NDArray[np.float32], content: tuple[float, float, float, float]) -> NDArray[np.float32]:
        """Map boxes, float32 (n, 4), x1 y1 x2 y2 in pixels of the input, to 0..1 of the source, clipped.

        `content` is x0 y0 width height, pixels: where the scaled source lies in the ring picture.
        """
        shift, scale = _compute_mapping(self, content)
        normalised: NDArray[np.float32] = (boxes - shift) / scale
        np.maximum(normalised, 0.0, out=normalised)
        np.minimum(normalised, 1.0, out=normalised)
        return normalised


@functools.lru_cache(256)
def letterbox(spec: RingSpec) -> Letterbox:
    """Compute the smallest input that holds the picture; an odd pixel of padding goes right and down."""
    inner_width, inner_height = spec.width, spec.height
    if 0 < spec.model_width < spec.width:
        inner_width = spec.model_width
        inner_height = max(2, round(spec.height * spec.model_width / spec.width / 2) * 2)
    width = -(-inner_width // STRIDE) * STRIDE
    height = -(-inner_height // STRIDE) * STRIDE
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return Letterbox(spec.width, spec.height, width, height, left, top, inner_width, inner_height, spec.pix_fmt)


@functools.lru_cache(256)
def _compute_mapping(
    box: Letterbox, content: tuple[float, float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what to subtract from a box, and then to divide it by."""
    x0, y0, width, height = content
    across, down = box.inner_width / box.ring_width, box.inner_height / box.ring_height
    shift = np.array([box.left + x0 * across, box.top + y0 * down] * 2, dtype=np.float32)
    return shift, np.array([width * across, height * down] * 2, dtype=np.float32)


def to_rgb(frame: NDArray[np.uint8], spec: RingSpec) -> NDArray[np.uint8]:
    """Convert a ring frame to RGB, uint8 (height, width, 3); a view of `frame` if that is bgr24."""
    return _convert(frame, spec.pix_fmt, spec.width, spec.height)


def _convert(frame: NDArray[np.uint8], pix_fmt: PixelFormat, width: int, height: int) -> NDArray[np.uint8]:
    if pix_fmt == "yuv420p":
        converted: NDArray[np.uint8] = cv2.cvtColor(frame.reshape(height * 3 // 2, width), cv2.COLOR_YUV2RGB_I420)
        return converted
    return frame.reshape(height, width, 3)[..., ::-1]


def load_ring_frame(path: Path, size: tuple[int, int]) -> tuple[NDArray[np.uint8], RingSpec]:
    """Load a picture as capture would write it into a yuv420p ring of that size, or raise ModelError."""
    image = cv2.imread(str(path))
    if image is None:
        raise ModelError(f"{str(path)!r} is not a picture. Remedy: take it out of the folder.")
    spec = RingSpec(*size, "yuv420p", image.shape[1], image.shape[0], 4, 1.0, 0)
    frame: NDArray[np.uint8] = cv2.cvtColor(place_in_ring(image, spec), cv2.COLOR_BGR2YUV_I420).reshape(-1)
    return frame, spec


def place_in_ring(image: NDArray[np.uint8], spec: RingSpec) -> NDArray[np.uint8]:
    """Scale a BGR picture to its place in the ring's picture, black around it: uint8 (height, width, 3)."""
    x0, y0, across, down = spec.content
    ring = np.zeros((spec.height, spec.width, 3), np.uint8)
    ring[y0 : y0 + down, x0 : x0 + across] = cv2.resize(image, (across, down), interpolation=cv2.INTER_AREA)
    return ring
