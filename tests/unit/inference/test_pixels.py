"""Colour and padding: OpenCV on the processor and torch on a device give the same picture."""

from __future__ import annotations

import numpy as np
import pytest

from crowdperf.inference.letterbox import PAD, letterbox
from crowdperf.inference.pixels import PixelFormat, canvas, paint
from tests.support.pictures import asset, ring_frame


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "bgr24"])
def test_the_colours_survive(pix_fmt: PixelFormat) -> None:
    colour = np.zeros((360, 640, 3), np.uint8)
    colour[:] = (200, 60, 30)
    frame, spec = ring_frame(colour, 640, 360, pix_fmt)
    box = letterbox(spec.width, spec.height)
    out = canvas(1, box)
    paint(frame, pix_fmt, box, out[0])
    assert out[0, 200, 300].tolist() == pytest.approx([30, 60, 200], abs=3), "RGB"
    assert (out[0, :12] == PAD).all()
    assert (out[0, 372:] == PAD).all()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "bgr24"])
@pytest.mark.parametrize("size", [(640, 360), (360, 640), (322, 242)])
def test_torch_paints_the_same_picture(pix_fmt: PixelFormat, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    from crowdperf.inference.torch_pixels import to_input

    frame, spec = ring_frame(asset("bus.jpg"), *size, pix_fmt)
    box = letterbox(spec.width, spec.height)
    out = canvas(1, box)
    paint(frame, pix_fmt, box, out[0])
    batch = to_input(torch.from_numpy(np.stack([frame, frame])), pix_fmt, box, torch.float32)
    assert batch.shape == (2, 3, box.height, box.width)
    theirs = (batch[1] * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(theirs - out[0].astype(np.float32)).max() <= 2
    assert np.abs(theirs - out[0]).mean() < 0.5
