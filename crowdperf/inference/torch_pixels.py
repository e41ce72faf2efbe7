"""Ring bytes to the network's input on the device: colour, padding and scaling.

Written for few passes over memory, which is all that this costs on a device: a picture that is not scaled is added up
straight in its place of the input, and chroma is never written out at the size of luma.
"""

from __future__ import annotations

from typing import Any

import torch

from crowdperf.inference.letterbox import PAD_VALUE, Letterbox
from crowdperf.inference.pixels import PixelFormat

LUMA, V_RED, U_GREEN, V_GREEN, U_BLUE = (share / (255 << 20) for share in (1220542, 1673527, -409993, -852492, 2116026))
"""1.164, 1.596, -0.391, -0.813 and 2.018 of ITU-R BT.601 as OpenCV has them, each divided by 255."""


def make_device_canvas(count: int, box: Letterbox, dtype: Any, device: Any) -> Any:
    """(count, 3, height, width) of `dtype`, channels last: inputs that are grey where the letterbox pads them."""
    return torch.full((count, box.height, box.width, 3), PAD_VALUE / 255, dtype=dtype, device=device).permute(
        0, 3, 1, 2
    )


def to_input(frames: Any, pix_fmt: PixelFormat, box: Letterbox, dtype: Any, out: Any = None) -> Any:
    """The same picture that `pixels.paint` makes, within a 255th, for a whole batch.

    Args:
        frames: uint8 (b, frame_bytes) on any device: planes Y, U, V (BT.601, limited range), or packed BGR.
        pix_fmt: which of the two.
        box: geometry of both sides.
        dtype: of the result.
        onto: a `canvas` of b pictures, of the same geometry, that is painted over; a new one where it is not given.

    Returns:
        (b, 3, height, width) of `dtype`, channels last, RGB, 0..1, padded with the letterbox grey: `onto` itself.
    """
    out = make_device_canvas(len(frames), box, dtype, frames.device) if out is None else out
    place = out[:, :, box.top : box.top + box.inner_height, box.left : box.left + box.inner_width]
    if box.scaled:
        whole = torch.empty((len(frames), 3, box.ring_height, box.ring_width), device=frames.device)
        _write_rgb(frames, pix_fmt, whole)
        # Rounded before and after, as OpenCV's pictures are: two roundings left out add up to more than a 255th.
        whole.mul_(255).round_()
        size = (box.inner_height, box.inner_width)
        rgb = torch.nn.functional.interpolate(whole, size, mode="bilinear", align_corners=False)
        torch.div(rgb.round_(), 255, out=place)
    else:
        _write_rgb(frames, pix_fmt, place)
    return out


def _write_rgb(frames: Any, pix_fmt: PixelFormat, place: Any) -> None:
    """Write RGB, 0..1, into `place`, (b, 3, height, width): chroma is repeated, luma below black counts as black."""
    height, width = place.shape[2], place.shape[3]
    if pix_fmt == "bgr24":
        torch.div(frames.view(-1, height, width, 3).flip(3).permute(0, 3, 1, 2), 255, out=place)
        return
    pixels, rows, columns = height * width, height // 2, width // 2
    luma = frames[:, :pixels].float().sub_(16).clamp_(min=0).mul_(LUMA).view(-1, 1, height, width)
    chroma = frames[:, pixels : pixels + 2 * rows * columns].float().sub_(128).view(-1, 2, rows, columns)
    u, v = chroma[:, 0], chroma[:, 1]
    # Mixed at the chroma's own size, a quarter of the picture's, and added to each of the four pixels that share it.
    mixed = torch.stack([V_RED * v, U_GREEN * u + V_GREEN * v, U_BLUE * u], dim=1)
    for y in (0, 1):
        for x in (0, 1):
            torch.add(luma[:, :, y::2, x::2], mixed, out=place[:, :, y::2, x::2])
    place.clamp_(0, 1)
