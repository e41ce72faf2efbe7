"""Postprocessing on the processor: the raw output of a YOLO head to boxes.

Per anchor the head returns a box (centre x, centre y, width, height; pixels of the model input) and one score per
class, after the sigmoid. As in Ultralytics, an anchor counts for its best class only, and suppression is greedy within
a class.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_CANDIDATES = 1000
"""Only the best anchors enter suppression, which bounds its time. 60 people give about 400 at confidence 0.1."""
MAX_DETECTIONS = 300
"""Only the best boxes of a picture are kept."""
IOU_TOLERANCE = 1e-6
"""OpenCV's float32 overlap can exceed the threshold by rounding; a box of exactly this overlap is kept."""


class Detections(NamedTuple):
    """The detections of one picture, best first."""

    boxes: NDArray[np.float32]
    """(n, 4), x1 y1 x2 y2."""
    scores: NDArray[np.float32]
    classes: NDArray[np.uint8]
    """(n,), index into `CLASSES_BY_ROLE`."""


def non_max_suppression(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.integer], iou: float
) -> NDArray[np.intp]:
    """Suppress boxes greedily, each class on its own.

    Args:
        boxes: float32 (n, 4), x1 y1 x2 y2, in any unit.
        scores: float32 (n,), finite.
        classes: (n,), 0 or more.
        iou: a box is dropped if it overlaps a kept box of its class by more than this.

    Returns:
        Indices of the kept boxes, best score first; equal scores keep the order of the boxes.
    """
    order = np.argsort(-scores, kind="stable")
    rects = boxes[order].astype(np.float64)
    rects[:, 2:] -= rects[:, :2]
    # OpenCV separates the classes by an offset along the diagonal, which negative coordinates would defeat.
    rects[:, :2] -= rects[:, :2].min(initial=0.0)
    # Any two boxes without area are equal for OpenCV. They never suppress each other here, so they stay out of it.
    kept = rects[:, 2] * rects[:, 3] <= 0
    ranks = np.flatnonzero(~kept)
    chosen = cv2.dnn.NMSBoxesBatched(
        rects[ranks].tolist(),
        scores[order[ranks]].tolist(),
        classes[order[ranks]].tolist(),
        score_threshold=-np.inf,
        nms_threshold=iou + IOU_TOLERANCE,
    )
    kept[ranks[np.asarray(chosen, np.intp)]] = True
    return order[kept]


class BoxDecoder(NamedTuple):
    """Decodes the raw output of one picture; boxes are clipped to the model input, in its pixels."""

    class_map: NDArray[np.int16]
    """(model classes,), index into `CLASSES_BY_ROLE`; -1 ignores a class."""
    confidence: float
    """Detections at or below it are dropped."""
    iou: float
    """Overlap above which the weaker of two boxes of a class is dropped."""

    def decode_end_to_end(self, rows: NDArray[np.float32], size: tuple[int, int]) -> Detections:
        """Decode the output of an end-to-end head, which suppresses by itself (YOLO26, YOLOv10).

        `rows` is float32 (k, 6), x1 y1 x2 y2 score class; `size` is width and height of the model input.
        """
        classes = self.class_map[np.clip(rows[:, 5].astype(np.intp), 0, len(self.class_map) - 1)]
        chosen = np.flatnonzero((rows[:, 4] > self.confidence) & (classes >= 0))
        chosen = chosen[np.argsort(-rows[chosen, 4], kind="stable")][:MAX_DETECTIONS]
        boxes = np.clip(rows[chosen, :4], 0, np.array(size * 2, dtype=np.float32)).astype(np.float32)
        return Detections(boxes, rows[chosen, 4].astype(np.float32), classes[chosen].astype(np.uint8))

    def decode(self, raw: NDArray[np.float32], size: tuple[int, int]) -> Detections:
        """Decode float32 (4 + model classes, anchors) and suppress; `size` is as in `decode_end_to_end`."""
        scores = raw[4:].max(axis=0)
        chosen = np.flatnonzero(scores > self.confidence)
        # Look up the class of these few only: for all anchors it took half of the time of an empty picture.
        classes = np.empty(len(scores), self.class_map.dtype)
        classes[chosen] = self.class_map[raw[4:, chosen].argmax(axis=0)]
        chosen = chosen[classes[chosen] >= 0]
        if len(chosen) > MAX_CANDIDATES:
            chosen = chosen[np.argpartition(-scores[chosen], MAX_CANDIDATES)[:MAX_CANDIDATES]]
        centre, half = raw[:2, chosen].T, raw[2:4, chosen].T / 2
        limit = np.array(size, dtype=np.float32)
        boxes = np.concatenate([np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)], axis=1)
        boxes, scores, classes = boxes.astype(np.float32), scores[chosen], classes[chosen]
        kept = non_max_suppression(boxes, scores, classes, self.iou)[:MAX_DETECTIONS]
        return Detections(boxes[kept], scores[kept], classes[kept].astype(np.uint8))


def compute_iou_matrix(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the intersection over union of every pair of boxes x1 y1 x2 y2: (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    result: NDArray[np.float32] = shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-12)
    return result
