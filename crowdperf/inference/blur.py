"""Making people unrecognisable in pictures of evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Blur = Literal["none", "face", "upper_body"]
PARTS: dict[str, tuple[float, float, float, float]] = {
    "face": (0.15, 0.03, 0.85, 0.3),
    "upper_body": (-0.05, -0.02, 1.05, 0.55),
}
"""Left, top, right and bottom of what is hidden, as shares of a person's box."""
BLOCKS = 5
"""What is hidden keeps this many blocks along its shorter side: no face can be made of them again."""


def obscure(image: NDArray[np.uint8], people: Iterable[tuple[float, float, float, float]], blur: Blur) -> None:
    """Hide a part of each person, in place.

    Args:
        image: uint8 (h, w, 3).
        people: boxes x1 y1 x2 y2, pixels.
        blur: which part; "none" changes nothing.
    """
    if blur == "none":
        return
    left, top, right, bottom = PARTS[blur]
    for x1, y1, x2, y2 in people:
        width, height = x2 - x1, y2 - y1
        hide(image, x1 + left * width, y1 + top * height, x1 + right * width, y1 + bottom * height)


def hide(image: NDArray[np.uint8], x1: float, y1: float, x2: float, y2: float) -> None:
    """Replace a region (pixels, clipped to the picture) by a few smooth blocks, in place."""
    rows, columns = image.shape[:2]
    left, right = max(0, int(x1)), min(columns, int(np.ceil(x2)))
    top, bottom = max(0, int(y1)), min(rows, int(np.ceil(y2)))
    if right <= left or bottom <= top:
        return
    width, height = right - left, bottom - top
    block = max(2.0, min(width, height) / BLOCKS)
    small = (max(1, round(width / block)), max(1, round(height / block)))
    few = cv2.resize(image[top:bottom, left:right], small, interpolation=cv2.INTER_AREA)
    image[top:bottom, left:right] = cv2.resize(few, (width, height), interpolation=cv2.INTER_LINEAR)
