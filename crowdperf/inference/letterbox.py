"""Where a ring picture lies inside the model's input, and the way of a box back to the source picture. Pure.

The ring already holds the picture at the analysis size, so the model runs at that size and nothing is resized a second
time: the picture is only padded, centred, to the next multiples of 32 (640x360 becomes 640x384).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STRIDE = 32
"""The coarsest grid of the YOLO family: both sides of its input must be multiples of it."""
PAD = 114
"""The grey (of 0..255, each channel) that Ultralytics pads with, in training as well."""


class Letterbox(NamedTuple):
    """A `ring_width` x `ring_height` picture at (`left`, `top`) of a `width` x `height` model input, pixels."""

    ring_width: int
    ring_height: int
    width: int
    height: int
    left: int
    top: int


def letterbox(ring_width: int, ring_height: int) -> Letterbox:
    """The smallest input that holds the picture; an odd pixel of padding goes to the right and the bottom."""
    width = -(-ring_width // STRIDE) * STRIDE
    height = -(-ring_height // STRIDE) * STRIDE
    return Letterbox(ring_width, ring_height, width, height, (width - ring_width) // 2, (height - ring_height) // 2)


def to_source(
    boxes: NDArray[np.float32], box: Letterbox, content: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Map model boxes to the source picture.

    Args:
        boxes: float32 (n, 4), x1 y1 x2 y2, pixels of the model input.
        box: where the ring picture lies in the model input.
        content: x0 y0 width height, pixels: where the scaled source lies in the ring picture.

    Returns:
        float32 (n, 4), x1 y1 x2 y2, normalised to 0..1 of the source and clipped there.
    """
    x0, y0, width, height = content
    shift = np.array([box.left + x0, box.top + y0] * 2, dtype=np.float32)
    scale = np.array([width, height] * 2, dtype=np.float32)
    normalised: NDArray[np.float32] = np.clip((boxes - shift) / scale, np.float32(0), np.float32(1))
    return normalised
