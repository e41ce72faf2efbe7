"""Ring bytes to the network's input on the device: colour, padding and scaling in one step."""

from __future__ import annotations

from typing import Any

import torch

from crowdperf.inference.letterbox import PAD, Letterbox
from crowdperf.inference.pixels import PixelFormat


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
    """float32 (b, 3, height, width), 0..255, by the equations of ITU-R BT.601; chroma is repeated, as OpenCV does."""
    pixels, quarter = height * width, (height // 2) * (width // 2)
    luma = (frames[:, :pixels].view(-1, height, width).float() - 16) * 1.164383
    chroma = frames[:, pixels : pixels + 2 * quarter].view(-1, 2, height // 2, width // 2).float() - 128
    chroma = chroma.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    u, v = chroma[:, 0], chroma[:, 1]
    red = luma + 1.596027 * v
    green = luma - 0.391762 * u - 0.812968 * v
    blue = luma + 2.017232 * u
    return torch.stack([red, green, blue], dim=1).clamp(0, 255).round()
