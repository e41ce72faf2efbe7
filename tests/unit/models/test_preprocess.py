"""Colour and padding: OpenCV on the processor and torch on a device give the same picture."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from crowdperf.models.detector import make_warmup_spec
from crowdperf.models.preprocess import PAD_VALUE, PixelFormat, letterbox, to_rgb
from tests.support.pictures import asset, ring_frame, to_torch_input

ROUNDING = 0.501
"""Of 255: OpenCV's colours are whole numbers, torch's are not."""


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "bgr24"])
def test_the_colours_survive(pix_fmt: PixelFormat) -> None:
    colour = np.zeros((360, 640, 3), np.uint8)
    colour[:] = (200, 60, 30)
    frame, spec = ring_frame(colour, 640, 360, pix_fmt)
    box = letterbox(spec)
    out = box.make_canvas(1)
    box.paint(frame, out[0])
    assert out[0, 200, 300].tolist() == pytest.approx([30, 60, 200], abs=3), "RGB"
    assert (out[0, :12] == PAD_VALUE).all()
    assert (out[0, 372:] == PAD_VALUE).all()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "bgr24"])
@pytest.mark.parametrize("size", [(640, 360), (360, 640), (322, 242)])
def test_torch_paints_the_same_picture(pix_fmt: PixelFormat, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    frame, spec = ring_frame(asset("bus.jpg"), *size, pix_fmt)
    box = letterbox(spec)
    out = box.make_canvas(1)
    box.paint(frame, out[0])
    batch = to_torch_input(torch.from_numpy(np.stack([frame, frame])), box)
    assert batch.shape == (2, 3, box.height, box.width)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    theirs = (batch[1] * 255).permute(1, 2, 0).numpy()
    assert np.abs(theirs - out[0]).max() <= ROUNDING


def test_torch_knows_every_colour_as_opencv_does() -> None:
    """All chroma pairs of a coarse grid with every luma, values outside the legal range included."""
    torch = pytest.importorskip("torch")
    chroma = np.array([(u, v) for u in range(0, 256, 15) for v in range(0, 256, 15)], np.uint8)
    height, width = 2 * len(chroma), 256
    luma = np.tile(np.arange(256, dtype=np.uint8), (height, 1))
    planes = [np.repeat(chroma[:, index], width // 2) for index in (0, 1)]
    frame = np.concatenate([luma.reshape(-1), *planes])
    spec = make_warmup_spec(width, height)
    box = letterbox(spec)
    (ours,) = (to_torch_input(torch.from_numpy(frame)[None], box) * 255).numpy()
    theirs = to_rgb(frame, spec).transpose(2, 0, 1)
    assert np.abs(ours[:, box.top : box.top + height, :] - theirs).max() <= ROUNDING


def test_a_canvas_is_painted_over_and_keeps_its_padding() -> None:
    """As a device reuses it, in its own number format; what was on it before is gone."""
    torch = pytest.importorskip("torch")
    from crowdperf.models.torch_graphs import GeometryBuffers
    from crowdperf.models.torch_network import paint_batch

    frame, spec = ring_frame(asset("bus.jpg"), 640, 360)
    box = letterbox(spec)
    found = GeometryBuffers(2, box, torch.float16, "cpu").canvas
    white = torch.full((2, spec.frame_bytes), 255, dtype=torch.uint8)
    paint_batch(white, box, found)
    frames = torch.from_numpy(np.stack([frame, frame]))
    paint_batch(frames, box, found)
    assert torch.equal(found, to_torch_input(frames, box, torch.float16))
    exact = to_torch_input(frames, box)
    assert float((found.float() - exact).abs().max()) < 1 / 1000
    assert ((found[:, :, : box.top].float() * 255 - PAD_VALUE).abs() < 0.1).all()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "bgr24"])
@pytest.mark.parametrize(("size", "model_width"), [((1280, 720), 640), ((960, 540), 416), ((640, 360), 0)])
def test_torch_is_ultralytics_letterbox_within_one_step(
    pix_fmt: PixelFormat, size: tuple[int, int], model_width: int
) -> None:
    """The fused step (colour, scaling, padding) against OpenCV's colours and Ultralytics' LetterBox: 1/255 at most."""
    torch = pytest.importorskip("torch")
    from ultralytics.data.augment import LetterBox

    frame, spec = ring_frame(asset("bus.jpg"), *size, pix_fmt)
    box = letterbox(replace(spec, model_width=model_width))
    rgb = to_rgb(frame, spec)
    theirs = LetterBox((box.height, box.width), auto=False, scaleup=False, stride=32)(image=np.ascontiguousarray(rgb))
    (ours,) = (to_torch_input(torch.from_numpy(frame)[None], box) * 255).permute(0, 2, 3, 1).numpy()
    apart = np.abs(ours - theirs.astype(np.float32))
    assert apart.max() <= (1.001 if box.scaled else ROUNDING)
    out = box.make_canvas(1)
    box.paint(frame, out[0])
    assert np.abs(out[0].astype(np.float32) - theirs).max() <= 1
