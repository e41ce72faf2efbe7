"""The committed int8 form finds what the full one finds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.models.postprocess import Detections
from crowdperf.settings.engine import Inference
from tests.conftest import ROOT, missing
from tests.support.pictures import asset, iou, picture, ring_frame

SURE = 0.5
"""Boxes of one form above this must be found by the other..."""
SEEN = 0.25
"""...with at least this score, the same class and an overlap of a half."""


@pytest.fixture(scope="module")
def int8_detector(model_cache: Path) -> Detector:
    return load_detector(Inference(precision="int8"), model_cache)


def confirmed(found: Detections, by: Detections) -> NDArray[np.bool_]:
    """bool (sure boxes of `found`,): whether `by` has it too."""
    sure, seen = found.scores > SURE, by.scores > SEEN
    if not seen.any():
        return np.zeros(sure.sum(), dtype=bool)
    same = found.classes[sure][:, None] == by.classes[seen][None, :]
    return np.asarray((same & (iou(found.boxes[sure], by.boxes[seen]) > 0.5)).any(axis=1))


@pytest.mark.parametrize("name", ["bus.jpg", "zidane.jpg"])
@pytest.mark.parametrize("size", [(640, 360), (640, 480), (640, 640)])
def test_both_precisions_find_the_same_in_packaged_pictures(
    name: str, size: tuple[int, int], openvino_detector: Detector, int8_detector: Detector
) -> None:
    frame, spec = ring_frame(asset(name), *size)
    (full,), (int8,) = openvino_detector.detect([frame], spec), int8_detector.detect([frame], spec)
    assert (full.scores > SURE).sum() >= 2
    assert confirmed(full, int8).all()
    assert confirmed(int8, full).all()
    assert not np.array_equal(full.scores, int8.scores), "both ran the same files"


def test_both_precisions_find_the_same_people(openvino_detector: Detector, int8_detector: Detector) -> None:
    """Every third picture: those that the calibration has not seen."""
    folder = Path(os.environ.get("CROWDPERF_IMAGES", str(ROOT.parent / "shared" / "images"))) / "person" / "images"
    if not folder.is_dir():
        missing(f"no pictures at {folder}: set CROWDPERF_IMAGES")
    kept, real = [], []
    for path in sorted(folder.glob("*.jpg"))[::6]:
        frame, spec = ring_frame(picture(path), 640, 360)
        (full,), (int8,) = openvino_detector.detect([frame], spec), int8_detector.detect([frame], spec)
        kept.append(confirmed(full, int8))
        real.append(confirmed(int8, full))
    recall, precision = np.concatenate(kept), np.concatenate(real)
    print(f"int8 beside full: {recall.sum()} of {len(recall)} found again, {precision.sum()} of {len(precision)} real")
    assert len(recall) > 50
    assert recall.mean() > 0.97
    assert precision.mean() > 0.97
