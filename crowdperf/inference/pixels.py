"""Ring bytes to a padded RGB picture on the processor: one colour conversion, no resize."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.inference.letterbox import PAD, Letterbox

PixelFormat = Literal["yuv420p", "bgr24"]


def canvas(count: int, box: Letterbox) -> NDArray[np.uint8]:
    """A grey uint8 (count, height, width, 3) input; `paint` changes only the picture, so it is filled once."""
    return np.full((count, box.height, box.width, 3), PAD, dtype=np.uint8)


def paint(frame: NDArray[np.uint8], pix_fmt: PixelFormat, box: Letterbox, out: NDArray[np.uint8]) -> None:
    """Write the RGB picture of a ring frame into its place of one input.

    Args:
        frame: uint8 (frame_bytes,): planes Y, U, V (BT.601, limited range, as capture orders them), or packed BGR.
        pix_fmt: which of the two.
        box: geometry of both sides.
        out: uint8 (height, width, 3), RGB.
    """
    inside = out[box.top : box.top + box.ring_height, box.left : box.left + box.ring_width]
    if pix_fmt == "yuv420p":
        planes = frame.reshape(box.ring_height * 3 // 2, box.ring_width)
        inside[...] = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
    else:
        inside[...] = frame.reshape(box.ring_height, box.ring_width, 3)[..., ::-1]
