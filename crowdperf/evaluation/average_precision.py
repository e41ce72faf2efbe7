"""How good a detector is on labelled pictures: average precision as COCO defines it. Pure but for the detector.

Labelled pictures in YOLO's format: a folder with `classes.txt`, `images/*.jpg` and `labels/*.txt`.
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


class DetectionAccuracy(NamedTuple):
    """Means over the classes that the labels contain."""

    map50: float
    map50_95: float
    by_class: dict[int, tuple[float, float, int]]
    """Class -> (AP at 0.5, mean AP, labelled boxes)."""


def compute_average_precision(detections: Sequence[Detections], truth: Sequence[LabelledImage]) -> DetectionAccuracy:
    """Detections of pictures against their labels.

    Per class: every detection, best score first, takes the free label of its picture that it overlaps most; precision
    is made monotonic and sampled at 101 recalls (COCO), then averaged over IoU 0.50, 0.55 … 0.95.
    """
    classes = sorted({int(class_id) for one in truth for class_id in one.classes})
    by_class = {}
    for class_id in classes:
        scores, hits, total = _match_class(detections, truth, class_id)
        order = np.argsort(-scores, kind="stable")
        per = [_integrate_precision(hits[order, level], total) for level in range(len(IOU_THRESHOLDS))]
        by_class[class_id] = (per[0], float(np.mean(per)), total)
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


IMAGE_PATTERNS = ("*.jpg", "*.jpeg", "*.png")


class LabelledImage(NamedTuple):
    """One picture and what is in it."""

    path: Path
    boxes: NDArray[np.float32]
    """(n, 4), x1 y1 x2 y2, normalised."""
    classes: NDArray[np.int64]
    """(n,), index into the classes that were asked for."""


def load_labelled_images(folder: Path, class_names: tuple[str, ...]) -> list[LabelledImage]:
    """The pictures of a folder that have a label file; classes that are not in `system` are left out.

    Raises:
        ModelError: there is no such folder, or a label cannot be read.
    """
    try:
        names = (folder / "classes.txt").read_text(encoding="utf-8").split()
        files = sorted(path for pattern in IMAGE_PATTERNS for path in (folder / "images").glob(pattern))
        found = [_read_labels(path, folder / "labels" / f"{path.stem}.txt", names, class_names) for path in files]
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(
            f"{str(folder)!r} is no folder of labelled pictures ({error}). Remedy: give one with classes.txt, images/ "
            "and labels/ (a line per box: class, centre x, centre y, width, height, normalised)."
        ) from None
    known = [one for one in found if one is not None]
    if not known:
        raise ModelError(f"{str(folder)!r} holds no labelled picture. Remedy: give another folder.")
    return known


def _read_labels(path: Path, label: Path, names: list[str], class_names: tuple[str, ...]) -> LabelledImage | None:
    if not label.exists():
        return None
    rows = [line.split() for line in label.read_text(encoding="utf-8").splitlines() if line.strip()]
    kept = [
        (class_names.index(names[int(row[0])]), *map(float, row[1:5]))
        for row in rows
        if names[int(row[0])] in class_names
    ]
    table = np.array(kept, np.float32).reshape(-1, 5)
    centre, half = table[:, 1:3], table[:, 3:5] / 2
    return LabelledImage(path, np.concatenate([centre - half, centre + half], axis=1), table[:, 0].astype(np.int64))
