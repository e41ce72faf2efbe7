"""Regions of ring pictures on canvases, and detections back from there."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.regions import canvases
from crowdperf.inference.regions.canvases import GREY_LUMA
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import PixelFormat, letterbox

FORMATS: tuple[PixelFormat, ...] = ("yuv420p", "bgr24")


def make_spec(pix_fmt: PixelFormat, width: int = 640, height: int = 360, model_width: int = 0) -> RingSpec:
    return RingSpec(width, height, pix_fmt, 1920, 1080, 4, 10.0, 0, model_width=model_width)


def make_picture(spec: RingSpec, seed: int) -> NDArray[np.uint8]:
    """A smooth picture, which survives scaling."""
    rng = np.random.default_rng(seed)
    rows = -(-spec.frame_bytes // 16)
    return np.repeat(rng.integers(16, 235, rows).astype(np.uint8), 16)[: spec.frame_bytes]


def regions(*rows: tuple[int, int, int, int]) -> NDArray[np.intp]:
    return np.array(rows, np.intp).reshape(-1, 4)


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_regions_of_two_cameras_share_a_canvas_unchanged(pix_fmt: PixelFormat) -> None:
    spec = make_spec(pix_fmt)
    box = letterbox(spec)
    pictures = [make_picture(spec, 1), make_picture(spec, 2)]
    tiles = canvases.arrange([regions((0, 0, 64, 80), (320, 200, 448, 300)), regions((100, 40, 180, 140))], box)
    assert {tile.placement.canvas for tile in tiles} == {0}
    out = np.empty((1, canvases.build_canvas_spec(box).frame_bytes), np.uint8)
    canvases.paint(pictures, tiles, box, out)
    channels = 1 if pix_fmt == "yuv420p" else 3
    canvas = out[0, : box.width * box.height * channels].reshape(box.height, box.width, channels)
    covered = np.zeros(canvas.shape[:2], np.bool_)
    for tile in tiles:
        x1, y1, x2, y2 = tile.region
        picture = pictures[tile.owner][: 640 * 360 * channels].reshape(360, 640, channels)
        _, left, top = tile.placement
        here = slice(top, top + y2 - y1), slice(left, left + x2 - x1)
        assert np.array_equal(canvas[here], picture[y1:y2, x1:x2])
        covered[here] = True
    assert set(np.unique(canvas[~covered])) == {GREY_LUMA if channels == 1 else 114}


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_a_whole_picture_is_the_input_of_whole_analysis(pix_fmt: PixelFormat) -> None:
    spec = make_spec(pix_fmt)
    box = letterbox(spec)
    picture = make_picture(spec, 3)
    tiles = canvases.arrange([regions((0, 0, 640, 360))], box)
    canvas_spec = canvases.build_canvas_spec(box)
    out = np.empty((1, canvas_spec.frame_bytes), np.uint8)
    canvases.paint([picture], tiles, box, out)
    by_region, as_whole = box.make_canvas(1)[0], box.make_canvas(1)[0]
    letterbox(canvas_spec).paint(out[0], by_region)
    box.paint(picture, as_whole)
    assert np.abs(by_region.astype(int) - as_whole).max() <= 1


def test_a_ring_larger_than_the_model_is_scaled() -> None:
    spec = make_spec("yuv420p", 1280, 720, 640)
    box = letterbox(spec)
    luma = np.tile(np.linspace(20, 200, 1280).astype(np.uint8), (720, 1))
    picture = np.concatenate([luma.reshape(-1), np.full(1280 * 360, 128, np.uint8)])
    tiles = canvases.arrange([regions((320, 100, 448, 200))], box)
    out = np.empty((1, canvases.build_canvas_spec(box).frame_bytes), np.uint8)
    canvases.paint([picture], tiles, box, out)
    row = out[0, : box.width * box.height].reshape(box.height, box.width)[50, :128].astype(int)
    assert np.abs(row - luma[0, 640:896:2]).max() <= 1


def test_mean_luma_is_measured_in_cells() -> None:
    spec = make_spec("yuv420p")
    picture = np.full(spec.frame_bytes, 50, np.uint8)
    picture[: 640 * 360].reshape(360, 640)[8:12, 16:20] = 90
    luma = canvases.measure_luma(picture, spec, (160, 90))
    assert luma[2, 4] == 90
    assert (luma != 50).sum() == 1


def test_detections_return_to_the_picture_they_are_of() -> None:
    box = letterbox(make_spec("yuv420p"))
    wanted = [regions((100, 40, 180, 140)), regions((320, 200, 448, 300), (0, 0, 64, 80)), regions()]
    tiles = canvases.arrange(wanted, box)
    boxes, owners = [], []
    for tile in tiles:
        left, top = tile.placement.left + 10, tile.placement.top + 12
        boxes.append((left, top, left + 30, top + 40))
        owners.append((tile.owner, tile.region[0] + 10, tile.region[1] + 12))
    # Between the tiles there is nothing to find.
    boxes.append((600, 340, 630, 380))
    count = len(boxes)
    on_canvas = Detections(np.array(boxes, np.float32), np.ones(count, np.float32), np.zeros(count, np.uint8))
    found = canvases.map_back([on_canvas], tiles, 3)
    back = {(owner, x1, y1) for owner, one in enumerate(found) for x1, y1 in one.boxes[:, :2].tolist()}
    assert back == set(owners)
    assert [len(one.scores) for one in found] == [1, 2, 0]
