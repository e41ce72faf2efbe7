"""How good a detector is on labelled pictures: average precision as COCO defines it. Pure but for the detector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.inference.detector import Detector
from crowdperf.inference.labelled import LabelledImage, load_ring_frame
from crowdperf.inference.nms import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)


class DetectionAccuracy(NamedTuple):
    """Means over the classes that the labels contain."""

    map50: float
    map50_95: float
    by_class: dict[int, tuple[float, float, int]]
    """Class -> (AP at 0.5, mean AP, labelled boxes)."""


def compute_iou_matrix(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of every pair of boxes x1 y1 x2 y2: (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    result: NDArray[np.float32] = shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-12)
    return result


def compute_average_precision(detections: Sequence[Detections], truth: Sequence[LabelledImage]) -> DetectionAccuracy:
    """Detections of pictures against their labels.

    Per class: every detection, best score first, takes the free label of its picture that it overlaps most; precision
    is made monotonic and sampled at 101 recalls (COCO), then averaged over IoU 0.50, 0.55 … 0.95.
    """
    classes = sorted({int(klass) for one in truth for klass in one.classes})
    by_class = {}
    for klass in classes:
        scores, hits, total = _match_class(detections, truth, klass)
        order = np.argsort(-scores, kind="stable")
        per = [_integrate_precision(hits[order, level], total) for level in range(len(IOU_THRESHOLDS))]
        by_class[klass] = (per[0], float(np.mean(per)), total)
    first, mean = (float(np.mean([row[index] for row in by_class.values()])) if by_class else 0.0 for index in (0, 1))
    return DetectionAccuracy(first, mean, by_class)


def measure_accuracy(
    detector: Detector, images: Iterable[LabelledImage], width: int = 640, height: int = 640
) -> DetectionAccuracy:
    """Average precision of a detector on pictures in rings of that size."""
    kept = list(images)
    found = []
    for one in kept:
        frame, spec = load_ring_frame(one.path, width, height)
        found += detector.detect([frame], spec)
    return compute_average_precision(found, kept)


def _match_class(
    detections: Sequence[Detections], truth: Sequence[LabelledImage], class_id: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Scores (n,), hits (n, thresholds) and the number of labels of one class."""
    scores: list[float] = []
    hits: list[NDArray[np.bool_]] = []
    total = 0
    for seen, one in zip(detections, truth):
        wanted = one.boxes[one.classes == class_id]
        total += len(wanted)
        mine = np.flatnonzero(seen.classes == class_id)
        mine = mine[np.argsort(-seen.scores[mine], kind="stable")]
        table = compute_iou_matrix(seen.boxes[mine], wanted)
        hit = np.zeros((len(mine), len(IOU_THRESHOLDS)), bool)
        for level, least in enumerate(IOU_THRESHOLDS):
            free = np.ones(len(wanted), bool)
            for row in range(len(mine)):
                possible = np.where(free & (table[row] >= least), table[row], 0)
                if possible.any():
                    hit[row, level] = True
                    free[int(possible.argmax())] = False
        scores += seen.scores[mine].tolist()
        hits += list(hit)
    return np.array(scores, np.float32), np.array(hits, bool).reshape(-1, len(IOU_THRESHOLDS)), total


def _integrate_precision(hits: NDArray[np.bool_], total: int) -> float:
    """Mean of the precision envelope at 101 recalls."""
    if not total or not len(hits):
        return 0.0
    right = np.cumsum(hits)
    recall, precision = right / total, right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALL_LEVELS, side="left")
    return float(np.mean(np.where(at < len(envelope), envelope[np.minimum(at, len(envelope) - 1)], 0.0)))
