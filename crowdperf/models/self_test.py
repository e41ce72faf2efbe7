"""Self-test of a device: check that it computes what the processor computes.

An old driver or card, kernels that do not fit it, or too little memory show at the first batches only. A device that
computes wrong results would silently count wrong.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections, compute_iou_matrix
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.models.registry import ModelError

PICTURE_NAMES = ("bus.jpg", "zidane.jpg")
"""A street and a portrait of the ultralytics package, which the torch runtime needs anyway."""
WIDTH, HEIGHT = 640, 384
MIN_SURE_SCORE = 0.5
"""A detection of one side with this score must exist on the other side, with any score."""
MIN_IOU = 0.5
"""Overlap of two equal detections. Half precision moves a box by a pixel or two, a broken device by far more."""


class DeviceMismatchError(RuntimeError):
    """Report that the device and the processor detect different things in the same picture."""


def verify_device(device: Detector, reference: Callable[[], Detector]) -> None:
    """Run known pictures in batches that overlap as in live operation, and compare with the processor.

    Args:
        device: a detector on the device.
        reference: builds the same model's detector on the processor.

    Raises:
        DeviceMismatchError: the detections differ.
        RuntimeError: the device cannot compute; the text is torch's.
    """
    frames, specs = zip(*(load_ring_frame(find_pictures_folder() / name, WIDTH, HEIGHT) for name in PICTURE_NAMES))
    batches = [([frames[0]], [specs[0]]), (frames, specs), (frames[::-1], specs[::-1])]
    actual: list[Detections] = []
    for number, batch in enumerate(batches):
        device.load(*batch)
        device.start()
        if number:
            actual += device.finish(batches[number - 1][1])
    actual += device.finish(batches[-1][1])
    try:
        street, portrait = reference().detect_batch(frames, specs)
    except ModelError:
        # A TensorRT engine has no form for the processor.
        return
    for ours, theirs in zip(actual, (street, street, portrait, portrait, street)):
        if count_missing(ours, theirs) or count_missing(theirs, ours):
            raise DeviceMismatchError("its detections differ from those of the processor in the same pictures")


def find_pictures_folder() -> Path:
    """Find the folder of the pictures in the ultralytics package, without importing it."""
    module = importlib.util.find_spec("ultralytics")
    assert module is not None, "the torch runtime requires it"
    assert module.origin is not None
    return Path(module.origin).parent / "assets"


def count_missing(actual: Detections, expected: Detections) -> int:
    """Count the sure detections of `expected` that no detection in `actual` matches."""
    count = 0
    for index in np.flatnonzero(expected.scores >= MIN_SURE_SCORE).tolist():
        candidates = actual.boxes[actual.classes == expected.classes[index]]
        count += not (compute_iou_matrix(expected.boxes[index : index + 1], candidates) >= MIN_IOU).any()
    return count
