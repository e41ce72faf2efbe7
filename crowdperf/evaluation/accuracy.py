"""Accuracy of detectors on labelled pictures: average precision as COCO defines it, and PPE items per person.

The pictures are in YOLO's format: a folder with `classes.txt`, `images/*.jpg` and `labels/*.txt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.inference.ppe_items import assign_items
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections, compute_iou_matrix
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.models.registry import ModelError
from crowdperf.settings.ppe import ITEMS, PPE_CLASSES

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)
IMAGE_PATTERNS = ("*.jpg", "*.jpeg", "*.png")
RING_SIZE = (640, 640)
"""Width and height of the rings that the pictures are put into."""
MIN_PERSON_IOU = 0.5
"""Smallest overlap of a detection with the labelled person that it stands for."""


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


def measure_accuracy(detector: Detector, images: Iterable[LabelledImage]) -> DetectionAccuracy:
    """Measure the average precision of a detector on labelled pictures."""
    truth = list(images)
    detections = []
    for image in truth:
        frame, spec = load_ring_frame(image.path, RING_SIZE)
        detections += detector.detect([frame], spec)
    return compute_average_precision(detections, truth)


def _match_class(
    detections: Sequence[Detections], truth: Sequence[LabelledImage], class_id: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Return scores (n,), hits (n, thresholds) and the number of labels of one class."""
    scores: list[float] = []
    hits: list[NDArray[np.bool_]] = []
    total = 0
    for detected, image in zip(detections, truth, strict=True):
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
    """Load the pictures of a folder that have labels of these classes, or raise ModelError."""
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


class PpeAccuracy(NamedTuple):
    """Results over many people."""

    f1: dict[str, float]
    """Class (`hardhat`, `no_hardhat` …) -> harmonic mean of precision and recall over people."""
    people: int
    matched_people: int
    """Number of people that the person model found; the items of the others count as missed."""

    @property
    def mean(self) -> float:
        """Mean over the six classes."""
        return sum(self.f1.values()) / max(1, len(self.f1))


def _choose_labels(
    owners: NDArray[np.intp], items: NDArray[np.int64], scores: NDArray[np.float32], person: int
) -> list[str]:
    """Choose worn or missing (`hardhat`, `no_vest`) by score for each item that was detected on a person.

    Every detection has an owner, the index of its person, and an item, the index into PPE_CLASSES.
    """
    labels = []
    for item in ITEMS:
        best_scores = {
            name: max(scores[(owners == person) & (items == PPE_CLASSES.index(name))], default=0.0)
            for name in (item, f"no_{item}")
        }
        if max(best_scores.values()) > 0:
            labels.append(max(best_scores, key=lambda name: best_scores[name]))
    return labels


def measure_ppe_accuracy(results: Iterable[tuple[LabelledImage, Detections, PpeColumns]]) -> PpeAccuracy:
    """Compare labels, the person model's detections and the PPE columns of each picture.

    A detection is a false positive only if the item is labelled on that person, as worn or as missing.
    """
    right, wrong, missed = (dict.fromkeys(PPE_CLASSES[1:], 0) for _ in range(3))
    people = matched = 0
    for truth, detections, columns in results:
        persons = truth.boxes[truth.classes == 0]
        items, kinds = truth.boxes[truth.classes > 0], truth.classes[truth.classes > 0]
        labelled = assign_items(persons, items, kinds.astype(np.uint8))
        owners = np.frombuffer(columns.owners, "<u2").astype(np.intp)
        detected, scores = np.frombuffer(columns.items, np.uint8).astype(np.int64), np.frombuffer(columns.scores, "<f4")
        overlaps = compute_iou_matrix(persons, detections.boxes) * (detections.classes == 0)
        people += len(persons)
        for person in range(len(persons)):
            true = _choose_labels(labelled, kinds, np.ones(len(kinds), np.float32), person)
            best = int(overlaps[person].argmax()) if overlaps.shape[1] else -1
            is_matched = best >= 0 and overlaps[person, best] >= MIN_PERSON_IOU
            matched += is_matched
            predicted = _choose_labels(owners, detected, scores, best) if is_matched else []
            for name in true:
                (right if name in predicted else missed)[name] += 1
            labelled_items = {name.removeprefix("no_") for name in true}
            for name in predicted:
                if name not in true and name.removeprefix("no_") in labelled_items:
                    wrong[name] += 1
    f1 = {
        name: 2 * right[name] / max(1, 2 * right[name] + wrong[name] + missed[name])
        for name in right
        if right[name] + missed[name]
    }
    return PpeAccuracy(f1, people, matched)
