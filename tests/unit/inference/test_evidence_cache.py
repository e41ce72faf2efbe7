"""What is kept for evidence, what is hidden in it, and where boxes are in a crop."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import pytest

from crowdperf.frames.ring import FrameStamp, RingSpec
from crowdperf.inference.anonymize import anonymize, get_region
from crowdperf.inference.evidence_cache import EvidenceCache, FrameAnalysis
from crowdperf.inference.evidence_writer import clip_boxes, crop
from crowdperf.models.postprocess import Detections
from crowdperf.storage.evidence import EvidenceBox

SPEC = RingSpec(64, 48, "yuv420p", 128, 72, 4, 10.0, 0, 1.0)
NOBODY = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))


def put(cache: EvidenceCache, camera: str, sequence: int, at_s: float, epoch: int = 1) -> None:
    stamp = FrameStamp(epoch, sequence, 0, round(at_s * 1e9))
    cache.put(camera, np.full(SPEC.frame_bytes, 128, np.uint8), FrameAnalysis(stamp, SPEC, NOBODY, None))


def test_pictures_go_after_their_time() -> None:
    cache = EvidenceCache(30.0)
    for second in range(100):
        put(cache, "gate", second, second)
    assert len(cache) == 31
    assert cache.get(("gate", 1, 68)) is None
    held = cache.get(("gate", 1, 69))
    assert held is not None
    assert cv2.imdecode(np.frombuffer(held.jpeg.result(), np.uint8), 1).shape == (36, 64, 3), "without the padding"
    assert cache.prune(round(120e9)) == 21
    cache.close()


def test_pictures_are_bounded_in_number_and_bytes() -> None:
    few = EvidenceCache(1e6, max_pictures=5)
    small = EvidenceCache(1e6, max_bytes=3000)
    for sequence in range(20):
        put(few, "gate", sequence, sequence)
        put(small, "gate", sequence, sequence)
    assert len(few) == 5
    while not all(held.jpeg.done() for held in list(small._frames.values())):
        pass
    small.prune()
    sizes = [len(held.jpeg.result()) for held in small._frames.values()]
    assert 0 < sum(sizes) <= 3000
    assert small.get(("gate", 1, 19)) is not None, "the newest stays"
    few.close()
    small.close()


def test_the_nearest_later_frame_is_of_the_same_camera_and_later() -> None:
    cache = EvidenceCache(1e6)
    for camera, epoch, sequence in (("gate", 1, 5), ("gate", 1, 9), ("lobby", 1, 7), ("gate", 2, 1)):
        put(cache, camera, sequence, 1.0, epoch)
    later = [cache.get_after(("gate", 1, sequence)) for sequence in (4, 5, 9)]
    assert [(held.analysis.stamp.epoch, held.analysis.stamp.sequence) for held in later if held] == [
        (1, 5),
        (1, 9),
        (2, 1),
    ]
    assert cache.get_after(("gate", 2, 1)) is None
    assert cache.get_after(("yard", 1, 1)) is None
    cache.close()


@pytest.mark.parametrize("blur", ["face", "upper_body"])
def test_what_is_hidden_cannot_be_read_and_the_rest_is_untouched(blur: Literal["face", "upper_body"]) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    image = noise.copy()
    anonymize(image, [(100.0, 50.0, 220.0, 350.0)], blur)
    left, top, right, bottom = get_region((100.0, 50.0, 220.0, 350.0), blur)
    area = np.zeros((400, 400), bool)
    area[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    assert np.array_equal(image[~area], noise[~area])
    assert image[area].std() < 0.3 * noise[area].std()
    assert (image[area] != noise[area]).mean() > 0.9


def test_of_a_whole_person_little_more_than_the_head_is_hidden() -> None:
    """Boxes of people who stand, as wide for their height as those of bus.jpg: to their shoulders, not their chest."""
    for width in (60.0, 80.0, 110.0):
        left, top, right, bottom = get_region((100.0, 50.0, 100.0 + width, 350.0), "face")
        assert (left, top, right) == (100.0, 50.0, 100.0 + width)
        assert 0.3 * 300 <= bottom - top <= 0.34 * 300


def test_hiding_at_the_edge_and_hiding_nothing() -> None:
    image = np.random.default_rng(3).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    before = image.copy()
    anonymize(image, [(-50.0, -90.0, -10.0, -5.0), (60.0, 60.0, 90.0, 90.0)], "face")
    anonymize(image, [(0.0, 0.0, 40.0, 40.0)], "none")
    assert np.array_equal(image, before)
    anonymize(image, [(-10.0, -10.0, 1.0, 100.0)], "upper_body")
    assert not np.array_equal(image, before)


def test_boxes_of_a_crop_are_where_the_crop_shows_them() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:30, 100:110] = 255
    head = EvidenceBox(class_name="hardhat", score=0.8, box=(0.5, 0.2, 0.55, 0.3))
    other = EvidenceBox(class_name="person", score=0.8, box=(0.0, 0.0, 0.1, 0.1))
    cut, window = crop(image, (0.45, 0.2, 0.6, 0.8))
    (shown,) = clip_boxes([head, other], window)
    rows, columns = np.nonzero(cut[..., 0])
    height, width = cut.shape[:2]
    expected = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert shown.box == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.99, 0.99, 1.0, 1.0), (0.5, 0.5, 0.5001, 0.5001)])
def test_every_crop_has_a_pixel(box: tuple[float, float, float, float]) -> None:
    cut, window = crop(np.zeros((100, 200, 3), np.uint8), box)
    assert cut.size
    assert 0 <= window[0] < window[2] <= 1
