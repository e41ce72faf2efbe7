"""Read the frame counter of the demo's clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crowdperf.demo.outlines import HEIGHT, MARGIN
from crowdperf.demo.stage import BARCODE_WIDTH_SHARE, BLOCK_COUNT, BarcodeStamp, encode_stamp


def decode_stamp(luma: NDArray[np.uint8]) -> BarcodeStamp | None:
    """Decode the barcode of a luma plane, shape (height, width) at any size.

    Returns None for a barcode with too little contrast, wrong ends, or a wrong CRC.
    """
    height, width = luma.shape
    band = MARGIN / HEIGHT * height
    rows = luma[int(height - 0.7 * band) : max(int(height - 0.3 * band), int(height - 0.7 * band) + 1)]
    block = width * BARCODE_WIDTH_SHARE / BLOCK_COUNT
    levels = []
    for i in range(BLOCK_COUNT):
        left = int((i + 0.3) * block)
        levels.append(float(rows[:, left : max(int((i + 0.7) * block), left + 1)].mean()))
    high, low = (levels[0] + levels[-1]) / 2, (levels[1] + levels[-2]) / 2
    if high - low < 60:
        return None
    bits = [int(level > (high + low) / 2) for level in levels]
    value = int("".join(map(str, bits[2:22])), 2)
    stamp = BarcodeStamp(value >> 16, value & 0xFFFF)
    return stamp if encode_stamp(stamp) == bits else None
