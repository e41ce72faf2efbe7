"""Average precision of a detector on labelled pictures, as COCO defines it.

The pictures are in YOLO's format: a folder with `classes.txt`, `images/*.jpg` and `labels/*.txt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections, compute_iou_matrix
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.models.registry import ModelError

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)
IMAGE_PATTERNS = ("*.jpg", "*.jpeg", "*.png")


class DetectionAccuracy(NamedTuple):
    """Means over the classes that the labels contain."""

    map50: float
    map50_95: float
    by_class: dict[int, tuple[float, float, int]]
    """Class -> (AP at 0.5, mean AP, labelled boxes)."""


def compute_average_precision(detections: Sequence[Detections], truth: Sequence[LabelledImage]) -> DetectionAccuracy:
    """Compare the detections of pictures with their labels.

    Per class every detection, best score first, takes the free label that it overlaps most. Precision is made monotonic
    and sampled at 101 recalls (COCO), then averaged over IoU 0.50, 0.55 … 0.95.
    """
    by_class = {}
    for class_id in sorted({int(label) for image in truth for label in image.classes}):
        scores, hits, total = _match_class(detections, truth, class_id)
        order = np.argsort(-scores, kind="stable")
        levels = [_integrate_precision(hits[order, level], total) for level in range(len(IOU_THRESHOLDS))]
        by_class[class_id] = (levels[0], float(np.mean(levels)), total)
    map50, mean = (float(np.mean([row[index] for row in by_class.values()])) if by_class else 0.0 for index in (0, 1))
    return DetectionAccuracy(map50, mean, by_class)


def measure_accuracy(
    detector: Detector, images: Iterable[LabelledImage], width: int = 640, height: int = 640
) -> DetectionAccuracy:
    """Measure the average precision of a detector.

    Args:
        detector: the detector.
        images: labelled pictures.
        width: width of the rings to put them in, pixels.
        height: their height.

    Returns:
        The accuracy on all pictures.
    """
    truth = list(images)
    detections = []
    for image in truth:
        frame, spec = load_ring_frame(image.path, width, height)
        detections += detector.detect([frame], spec)
    return compute_average_precision(detections, truth)


def _match_class(
    detections: Sequence[Detections], truth: Sequence[LabelledImage], class_id: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Return scores (n,), hits (n, thresholds) and the number of labels of one class."""
    scores: list[float] = []
    hits: list[NDArray[np.bool_]] = []
    total = 0
    for detected, image in zip(detections, truth):
        labels = image.boxes[image.classes == class_id]
        total += len(labels)
        ranked = np.flatnonzero(detected.classes == class_id)
        ranked = ranked[np.argsort(-detected.scores[ranked], kind="stable")]
        overlaps = compute_iou_matrix(detected.boxes[ranked], labels)
        image_hits = np.zeros((len(ranked), len(IOU_THRESHOLDS)), bool)
        for level, threshold in enumerate(IOU_THRESHOLDS):
            free = np.ones(len(labels), bool)
            for row in range(len(ranked)):
                possible = np.where(free & (overlaps[row] >= threshold), overlaps[row], 0)
                if possible.any():
                    image_hits[row, level] = True
                    free[int(possible.argmax())] = False
        scores += detected.scores[ranked].tolist()
        hits += list(image_hits)
    return np.array(scores, np.float32), np.array(hits, bool).reshape(-1, len(IOU_THRESHOLDS)), total


def _integrate_precision(hits: NDArray[np.bool_], total: int) -> float:
    """Average the precision envelope over 101 recalls."""
    if not total or not len(hits):
        return 0.0
    true_positives = np.cumsum(hits)
    recall, precision = true_positives / total, true_positives / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALL_LEVELS, side="left")
    return float(np.mean(np.where(at < len(envelope), envelope[np.minimum(at, len(envelope) - 1)], 0.0)))


class LabelledImage(NamedTuple):
    """One picture and its labels."""

    path: Path
    boxes: NDArray[np.float32]
    """(n, 4), x1 y1 x2 y2, normalised."""
    classes: NDArray[np.int64]
    """(n,), index into the requested classes."""


def load_labelled_images(folder: Path, class_names: tuple[str, ...]) -> list[LabelledImage]:
    """Load the pictures of a folder that have a label file; classes outside `class_names` are ignored.

    Raises:
        ModelError: the folder does not exist, or a label cannot be read.
    """
    try:
        names = (folder / "classes.txt").read_text(encoding="utf-8").split()
        files = sorted(path for pattern in IMAGE_PATTERNS for path in (folder / "images").glob(pattern))
        images = [_read_labels(path, folder / "labels" / f"{path.stem}.txt", names, class_names) for path in files]
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(
            f"{str(folder)!r} is no folder of labelled pictures ({error}). Remedy: give one with classes.txt, images/ "
            "and labels/ (a line per box: class, centre x, centre y, width, height, normalised)."
        ) from None
    labelled = [image for image in images if image is not None]
    if not labelled:
        raise ModelError(f"{str(folder)!r} holds no labelled picture. Remedy: give another folder.")
    return labelled


def _read_labels(path: Path, label: Path, names: list[str], class_names: tuple[str, ...]) -> LabelledImage | None:
    if not label.exists():
        return None
    rows = [line.split() for line in label.read_text(encoding="utf-8").splitlines() if line.strip()]
    boxes = [
        (class_names.index(names[int(row[0])]), *map(float, row[1:5]))
        for row in rows
        if names[int(row[0])] in class_names
    ]
    table = np.array(boxes, np.float32).reshape(-1, 5)
    centre, half = table[:, 1:3], table[:, 3:5] / 2
    return LabelledImage(path, np.concatenate([centre - half, centre + half], axis=1), table[:, 0].astype(np.int64))
