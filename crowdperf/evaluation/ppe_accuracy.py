"""Accuracy of the PPE model: labelled against detected items, per person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.evaluation.average_precision import LabelledImage
from crowdperf.inference.ppe_items import assign_items
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.postprocess import Detections, compute_iou_matrix
from crowdperf.settings.ppe import ITEMS, PPE_CLASSES

MIN_IOU = 0.5
"""Smallest overlap of a detection with the labelled person that it stands for."""


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


def get_predicted_labels(
    owners: NDArray[np.intp], items: NDArray[np.int64], scores: NDArray[np.float32], person: int
) -> list[str]:
    """Choose worn or missing for each item of a person, by score; skip items without a detection.

    Args:
        owners: (n,), index of the person of each detection.
        items: (n,), index into PPE_CLASSES.
        scores: (n,).
        person: index of the person.

    Returns:
        Class names such as `hardhat` or `no_vest`.
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
            true = get_predicted_labels(labelled, kinds, np.ones(len(kinds), np.float32), person)
            best = int(overlaps[person].argmax()) if overlaps.shape[1] else -1
            is_matched = best >= 0 and overlaps[person, best] >= MIN_IOU
            matched += is_matched
            predicted = get_predicted_labels(owners, detected, scores, best) if is_matched else []
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
