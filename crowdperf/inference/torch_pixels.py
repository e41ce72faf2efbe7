"""Ring bytes to the network's input on the device: colour, padding and scaling in one step."""

from __future__ import annotations

from typing import Any

import torch

from crowdperf.inference.letterbox import PAD, Letterbox
from crowdperf.inference.pixels import PixelFormat

SHIFT = 20
HALF = 1 << (SHIFT - 1)
LUMA, V_RED, U_GREEN, V_GREEN, U_BLUE = 1220542, 1673527, -409993, -852492, 2116026
"""1.164, 1.596, -0.391, -0.813 and 2.018, times 2**SHIFT."""


def to_input(frames: Any, pix_fmt: PixelFormat, box: Letterbox, dtype: Any) -> Any:
    """The same picture that `pixels.paint` makes, for a whole batch.

    Args:
        frames: uint8 (b, frame_bytes) on any device: planes Y, U, V (BT.601, limited range), or packed BGR.
        pix_fmt: which of the two.
        box: geometry of both sides.
        dtype: of the result.

    Returns:
        (b, 3, height, width) of `dtype`, channels last, RGB, 0..1, padded with the letterbox grey.
    """
    height, width = box.ring_height, box.ring_width
    if pix_fmt == "yuv420p":
        rgb = _rgb(frames, height, width)
    else:
        rgb = frames.view(-1, height, width, 3).flip(3).permute(0, 3, 1, 2).float()
    if box.scaled:
        size = (box.inner_height, box.inner_width)
        rgb = torch.nn.functional.interpolate(rgb, size, mode="bilinear", align_corners=False).round()
    right, bottom = box.width - box.inner_width - box.left, box.height - box.inner_height - box.top
    padded = torch.nn.functional.pad(rgb, (box.left, right, box.top, bottom), value=float(PAD))
    return (padded / 255).to(dtype=dtype, memory_format=torch.channels_last)


def _rgb(frames: Any, height: int, width: int) -> Any:
    """float32 (b, 3, height, width), 0..255: ITU-R BT.601 in OpenCV's own integers, so that no pixel differs from it.

    Chroma is repeated, and luma below black counts as black, as there.
    """
    pixels, quarter = height * width, (height // 2) * (width // 2)
    luma = (frames[:, :pixels].view(-1, height, width).int() - 16).clamp(min=0) * LUMA
    chroma = frames[:, pixels : pixels + 2 * quarter].view(-1, 2, height // 2, width // 2).int() - 128
    u, v = chroma[:, 0], chroma[:, 1]
    # Mixed at the chroma's own size, a quarter of the picture's.
    mixed = torch.stack([V_RED * v, U_GREEN * u + V_GREEN * v, U_BLUE * u], dim=1) + HALF
    mixed = mixed.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return ((luma[:, None] + mixed) >> SHIFT).clamp(0, 255).float()
