"""The frame counter in the picture's lower margin: 32 black or white blocks, read back from any decoded size.

Layout, left to right over the left half of the picture: white, black | scene (4 bits) | frame (16 bits, most
significant first) | CRC-8 of those 20 bits (8 bits) | black, white. The two ends calibrate black and white.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.demo.ground import HEIGHT, MARGIN

BLOCK_COUNT = 32
BARCODE_WIDTH_SHARE = 0.5
"""Width of the row of blocks as a share of the picture's."""
WHITE, BLACK = 225, 24


class BarcodeStamp(NamedTuple):
    """What a frame says about itself."""

    scene: int
    frame: int


def _compute_crc8(bits: list[int]) -> list[int]:
    """CRC-8 (polynomial 0x07, initial value 0xFF) over bits."""
    register = 0xFF
    for bit in bits:
        top = (register >> 7) ^ bit
        register = ((register << 1) & 0xFF) ^ (0x07 if top else 0)
    return _to_bits(register, 8)


def _to_bits(value: int, count: int) -> list[int]:
    return [(value >> (count - 1 - i)) & 1 for i in range(count)]


def encode_stamp(stamp: BarcodeStamp) -> list[int]:
    """The 32 blocks, 1 = white.

    Raises:
        ValueError: the scene does not fit into 4 bits or the frame into 16.
    """
    if not (0 <= stamp.scene < 16 and 0 <= stamp.frame < 65_536):
        raise ValueError(f"{stamp} does not fit into the barcode")
    payload = _to_bits(stamp.scene, 4) + _to_bits(stamp.frame, 16)
    return [1, 0, *payload, *_compute_crc8(payload), 0, 1]


def draw_stamp(picture: NDArray[np.uint8], stamp: BarcodeStamp) -> None:
    """Write the stamp into the margin of a picture of shape (HEIGHT, width, 3), in place."""
    picture[HEIGHT - MARGIN :] = BLACK
    width = picture.shape[1] * BARCODE_WIDTH_SHARE / BLOCK_COUNT
    for i, bit in enumerate(encode_stamp(stamp)):
        if bit:
            picture[HEIGHT - MARGIN :, round(i * width) : round((i + 1) * width)] = WHITE


def decode_stamp(luma: NDArray[np.uint8]) -> BarcodeStamp | None:
    """The stamp of a decoded picture's luma plane, shape (height, width) of the whole picture at any size.

    None when the margin carries no valid stamp: too little contrast, wrong ends, or a CRC that does not fit.
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
    payload = bits[2:22]
    if bits[:2] != [1, 0] or bits[-2:] != [0, 1] or bits[22:30] != _compute_crc8(payload):
        return None
    value = int("".join(map(str, payload)), 2)
    return BarcodeStamp(value >> 16, value & 0xFFFF)
