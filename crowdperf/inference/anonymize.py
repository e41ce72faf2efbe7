"""Make people unrecognisable in evidence pictures. Pure functions on pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Blur = Literal["none", "face", "upper_body"]
Rectangle = tuple[float, float, float, float]
UPPER_BODY_SHARES = (-0.05, -0.02, 1.05, 0.55)
"""Left, top, right and bottom of the hidden region, as shares of a person's box."""
MAX_HEAD_HEIGHT_SHARE = 0.3
"""Lowest end of the head in the box of a whole person, as a share of its height."""
MAX_HEAD_WIDTH_SHARE = 0.9
"""The same as a share of the box's shorter side.

People who sit, are near or are cut by the lower edge have wide boxes. Their head takes more of the height.
"""
PIXELATE_BLOCKS = 5
"""Blocks that remain along the shorter side of a hidden region: too few to restore a face from."""


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
    """Return the region of a person to hide, x1 y1 x2 y2 in the unit of the box (square pixels)."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    if blur == "upper_body":
        left, top, right, bottom = UPPER_BODY_SHARES
        return x1 + left * width, y1 + top * height, x1 + right * width, y1 + bottom * height
    # The full width: the head of a person who leans or is cut by the picture's edge is not in the middle.
    return x1, y1, x2, y1 + max(MAX_HEAD_HEIGHT_SHARE * height, MAX_HEAD_WIDTH_SHARE * min(width, height))


def pixelate(image: NDArray[np.uint8], x1: float, y1: float, x2: float, y2: float) -> None:
    """Replace a region by a few smooth blocks, in place.

    Args:
        image: uint8 (h, w, 3).
        x1: left of the region in pixels; the region is clipped to the picture.
        y1: top.
        x2: right.
        y2: bottom.
    """
    rows, columns = image.shape[:2]
    left, right = max(0, int(x1)), min(columns, int(np.ceil(x2)))
    top, bottom = max(0, int(y1)), min(rows, int(np.ceil(y2)))
    if right <= left or bottom <= top:
        return
    width, height = right - left, bottom - top
    block = max(2.0, min(width, height) / PIXELATE_BLOCKS)
    blocks = (max(1, round(width / block)), max(1, round(height / block)))
    reduced = cv2.resize(image[top:bottom, left:right], blocks, interpolation=cv2.INTER_AREA)
    image[top:bottom, left:right] = cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)
