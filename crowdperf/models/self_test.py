"""Whether a device computes what the processor computes: asked once, before it is trusted with a site's counts.

A driver or a card too old for torch, kernels that do not fit it, or too little memory show at the first batches and not
when a model is loaded; a device that computes wrongly would count wrongly, in silence.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections, compute_iou_matrix
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.models.registry import ModelError

PICTURE_NAMES = ("bus.jpg", "zidane.jpg")
"""Street and portrait: pictures of the ultralytics package, which the torch runtime needs anyway."""
WIDTH, HEIGHT = 640, 384
MIN_SURE_SCORE = 0.5
"""What one side sees with this score, the other one must see at all."""
MIN_IOU = 0.5
"""Half precision moves a box by a pixel or two; what is looked for is a device that computes something else."""


class DeviceMismatchError(RuntimeError):
    """The device sees other things in a picture than the processor does."""


def verify_device(device: Detector, reference: Callable[[], Detector]) -> None:
    """Let the device look at known pictures, in batches that overlap as in live operation, and compare.

    Args:
        device: a detector on it.
        reference: makes the same model's detector on the processor.

    Raises:
        Disagreement: both see different things.
        RuntimeError: the device cannot compute, in torch's words.
    """
    frames, specs = zip(*(load_ring_frame(find_pictures_folder() / name, WIDTH, HEIGHT) for name in PICTURE_NAMES))
    batches = [([frames[0]], [specs[0]]), (frames, specs), (frames[::-1], specs[::-1])]
    found: list[Detections] = []
    for number, batch in enumerate(batches):
        device.load(*batch)
        device.start()
        if number:
            found += device.finish(batches[number - 1][1])
    found += device.finish(batches[-1][1])
    try:
        street, portrait = reference().detect_batch(frames, specs)
    except ModelError:
        # A TensorRT engine has no form for the processor.
        return
    for seen, known in zip(found, (street, street, portrait, portrait, street)):
        if count_missing(seen, known) or count_missing(known, seen):
            raise DeviceMismatchError("it does not see what the processor sees in the same pictures")


def find_pictures_folder() -> Path:
    """Of the pictures."""
    found = importlib.util.find_spec("ultralytics")
    assert found is not None, "the torch runtime cannot be without it"
    assert found.origin is not None
    return Path(found.origin).parent / "assets"


def count_missing(actual: Detections, expected: Detections) -> int:
    """How many of the sure detections of `known` nothing in `seen` lies on."""
    sure: Sequence[int] = np.flatnonzero(expected.scores >= MIN_SURE_SCORE).tolist()
    count = 0
    for index in sure:
        alike = actual.boxes[actual.classes == expected.classes[index]]
        count += not (compute_iou_matrix(expected.boxes[index : index + 1], alike) >= MIN_IOU).any()
    return count
