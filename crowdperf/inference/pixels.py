"""Ring bytes to a padded RGB picture on the processor: one colour conversion, and a resize where asked for."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.inference.letterbox import PAD_VALUE, Letterbox

PixelFormat = Literal["yuv420p", "bgr24"]


def make_canvas(count: int, box: Letterbox) -> NDArray[np.uint8]:
    """A grey uint8 (count, height, width, 3) input; `paint` changes only the picture, so it is filled once."""
    return np.full((count, box.height, box.width, 3), PAD_VALUE, dtype=np.uint8)


def paint(frame: NDArray[np.uint8], pix_fmt: PixelFormat, box: Letterbox, out: NDArray[np.uint8]) -> None:
    """Write the RGB picture of a ring frame into its place of one input.

    Args:
        frame: uint8 (frame_bytes,): planes Y, U, V (BT.601, limited range, as capture orders them), or packed BGR.
        pix_fmt: which of the two.
        box: geometry of both sides.
        out: uint8 (height, width, 3), RGB.
    """
    inside = out[box.top : box.top + box.inner_height, box.left : box.left + box.inner_width]
    rgb = to_rgb(frame, pix_fmt, box.ring_width, box.ring_height)
    if box.scaled:
        inside[...] = cv2.resize(rgb, (box.inner_width, box.inner_height), interpolation=cv2.INTER_LINEAR)
    else:
        inside[...] = rgb


def to_rgb(frame: NDArray[np.uint8], pix_fmt: PixelFormat, width: int, height: int) -> NDArray[np.uint8]:
    """A ring frame as uint8 (height, width, 3), RGB."""
    if pix_fmt == "yuv420p":
        converted: NDArray[np.uint8] = cv2.cvtColor(frame.reshape(height * 3 // 2, width), cv2.COLOR_YUV2RGB_I420)
        return converted
    return frame.reshape(height, width, 3)[..., ::-1]
