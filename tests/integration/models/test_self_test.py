"""A device proves itself beside the processor: here the processor plays both, and one that sees other things."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from crowdperf.frames.ring import RingSpec
from crowdperf.models.detector import Detector
from crowdperf.models.loader import DeviceMismatchError, count_missing, verify_device
from crowdperf.models.postprocess import Detections
from crowdperf.models.registry import ModelError

BOX = np.array([[0.1, 0.1, 0.3, 0.5]], np.float32)


class Distorted(Detector):
    """A device that computes something else."""

    def __init__(self, detector: Detector, distort: Callable[[list[Detections]], list[Detections]]) -> None:
        super().__init__(detector.backend, "distorted", "full")
        self._distort = distort

    def finish(self, specs: Sequence[RingSpec]) -> list[Detections]:
        return self._distort(super().finish(specs))


def found(boxes: np.ndarray, score: float = 0.9, class_id: int = 0) -> Detections:
    count = len(boxes)
    return Detections(boxes, np.full(count, score, np.float32), np.full(count, class_id, np.uint8))


def test_a_device_that_sees_the_same_is_taken(torch_detector: Detector) -> None:
    verify_device(torch_detector, lambda: torch_detector)


@pytest.mark.parametrize(
    "distort",
    [
        lambda batch: [Detections(np.roll(one.boxes, 1, axis=1), one.scores, one.classes) for one in batch],
        lambda batch: batch[::-1],
        lambda batch: [found(np.empty((0, 4), np.float32)) for _ in batch],
        lambda batch: [Detections(*(np.concatenate([a, b]) for a, b in zip(one, found(BOX)))) for one in batch],
    ],
    ids=["boxes elsewhere", "pictures exchanged", "nothing seen", "somebody who is not there"],
)
def test_a_device_that_sees_other_things_is_refused(
    torch_detector: Detector, distort: Callable[[list[Detections]], list[Detections]]
) -> None:
    with pytest.raises(DeviceMismatchError, match="its detections differ from those of the processor"):
        verify_device(Distorted(torch_detector, distort), lambda: torch_detector)


def test_model_without_processor_variant_is_not_compared(torch_detector: Detector) -> None:
    def none() -> Detector:
        raise ModelError("a TensorRT engine")

    verify_device(Distorted(torch_detector, lambda batch: batch[::-1]), none)


def test_only_what_is_sure_must_be_seen_by_both() -> None:
    near = BOX + np.float32(0.01)
    assert count_missing(found(near, 0.2), found(BOX)) == 0
    assert count_missing(found(BOX + np.float32(0.1)), found(BOX)) == 1
    assert count_missing(found(BOX, class_id=1), found(BOX)) == 1
    assert count_missing(found(np.empty((0, 4), np.float32)), found(BOX, 0.4)) == 0
