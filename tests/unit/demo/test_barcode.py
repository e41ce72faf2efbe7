"""The frame counter survives scaling, compression noise and colour ranges, and never lies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.demo.outlines import HEIGHT, WIDTH
from crowdperf.demo.stage import BLOCK_COUNT, BarcodeStamp, draw_stamp, encode_stamp
from tests.support.barcode import decode_stamp


def luma(stamp: BarcodeStamp, size: tuple[int, int] = (640, 360)) -> np.ndarray:
    picture = np.full((HEIGHT, WIDTH, 3), 140, np.uint8)
    draw_stamp(picture, stamp)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2YUV_I420)[: size[1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 15), st.integers(0, 65_535), st.sampled_from([(960, 540), (640, 360), (1280, 720), (480, 270)]))
def test_every_stamp_is_read_back_at_every_size(scene: int, frame: int, size: tuple[int, int]) -> None:
    assert decode_stamp(luma(BarcodeStamp(scene, frame), size)) == BarcodeStamp(scene, frame)


def test_noise_of_a_strong_compression_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    for frame in range(0, 65_536, 1311):
        noisy = luma(BarcodeStamp(2, frame)) + rng.normal(0, 14, (360, 640))
        assert decode_stamp(np.clip(noisy, 0, 255).astype(np.uint8)) == BarcodeStamp(2, frame)


@pytest.mark.parametrize("block", range(BLOCK_COUNT))
def test_a_wrong_block_is_noticed(block: int) -> None:
    plane = luma(BarcodeStamp(1, 12_345)).copy()
    left, right = (round(i * 320 / BLOCK_COUNT) for i in (block, block + 1))
    plane[352:, left:right] = 255 - plane[352:, left:right]
    assert decode_stamp(plane) is None


@pytest.mark.parametrize("level", [0, 16, 128, 235])
def test_a_picture_without_a_stamp_has_none(level: int) -> None:
    assert decode_stamp(np.full((360, 640), level, np.uint8)) is None


@pytest.mark.parametrize(
    "stamp", [BarcodeStamp(16, 0), BarcodeStamp(-1, 0), BarcodeStamp(0, 65_536), BarcodeStamp(0, -1)]
)
def test_what_does_not_fit_is_refused(stamp: BarcodeStamp) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_stamp(stamp)
