"""Making people unrecognisable in pictures of evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Blur = Literal["none", "face", "upper_body"]
Rectangle = tuple[float, float, float, float]
UPPER_BODY_SHARES = (-0.05, -0.02, 1.05, 0.55)
"""Left, top, right and bottom of what is hidden, as shares of a person's box."""
MAX_HEAD_HEIGHT_SHARE = 0.3
"""Where a head ends at the latest in the box of a whole person, as a share of its height."""
MAX_HEAD_WIDTH_SHARE = 0.9
"""The same as a share of the box's shorter side: the box of somebody who sits, is near, or is cut by the lower edge of
the picture is wide for its height, and so is the head in it."""
PIXELATE_BLOCKS = 5
"""What is hidden keeps this many blocks along its shorter side: no face can be made of them again."""


def anonymize(image: NDArray[np.uint8], people: Iterable[Rectangle], blur: Blur) -> None:
    """Hide a part of each person, in place.

    Args:
        image: uint8 (h, w, 3).
        people: boxes x1 y1 x2 y2, pixels.
        blur: which part; "none" changes nothing.
    """
    if blur == "none":
        return
    for box in people:
        pixelate(image, *get_region(box, blur))


def get_region(box: Rectangle, blur: Literal["face", "upper_body"]) -> Rectangle:
    """What is hidden of a person, x1 y1 x2 y2 in the unit of its box, whose pixels are square."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    if blur == "upper_body":
        left, top, right, bottom = UPPER_BODY_SHARES
        return x1 + left * width, y1 + top * height, x1 + right * width, y1 + bottom * height
    # From side to side: the head of somebody who leans, points or is cut by the picture's edge is not in the middle.
    return x1, y1, x2, y1 + max(MAX_HEAD_HEIGHT_SHARE * height, MAX_HEAD_WIDTH_SHARE * min(width, height))


def pixelate(image: NDArray[np.uint8], x1: float, y1: float, x2: float, y2: float) -> None:
    """Replace a region (pixels, clipped to the picture) by a few smooth blocks, in place."""
    rows, columns = image.shape[:2]
    left, right = max(0, int(x1)), min(columns, int(np.ceil(x2)))
    top, bottom = max(0, int(y1)), min(rows, int(np.ceil(y2)))
    if right <= left or bottom <= top:
        return
    width, height = right - left, bottom - top
    block = max(2.0, min(width, height) / PIXELATE_BLOCKS)
    small = (max(1, round(width / block)), max(1, round(height / block)))
    few = cv2.resize(image[top:bottom, left:right], small, interpolation=cv2.INTER_AREA)
    image[top:bottom, left:right] = cv2.resize(few, (width, height), interpolation=cv2.INTER_LINEAR)
