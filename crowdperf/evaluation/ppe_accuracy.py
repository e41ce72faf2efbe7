"""How many people the PPE model judges rightly: per person and item, what is labelled against what was found."""

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
"""Overlap at which a detection is a labelled person."""


class PpeAccuracy(NamedTuple):
    """Results over many people."""

    f1: dict[str, float]
    """Class (`hardhat`, `no_hardhat` …) -> harmonic mean of precision and recall over people."""
    people: int
    matched_people: int
    """People that the person model found at all; the others count as judged wrongly."""

    @property
    def mean(self) -> float:
        """Mean over the six classes."""
        return sum(self.f1.values()) / max(1, len(self.f1))


def get_predicted_labels(
    owners: NDArray[np.intp], items: NDArray[np.int64], scores: NDArray[np.float32], person: int
) -> list[str]:
    """What was seen of one person: for each item the better supported of worn and missing; nothing where neither."""
    said = []
    for item in ITEMS:
        best = {
            name: max(scores[(owners == person) & (items == PPE_CLASSES.index(name))], default=0.0)
            for name in (item, f"no_{item}")
        }
        if max(best.values()) > 0:
            said.append(max(best, key=lambda name: best[name]))
    return said


def measure_ppe_accuracy(results: Iterable[tuple[LabelledImage, Detections, PpeColumns]]) -> PpeAccuracy:
    """Compare labels, the person model's detections and the PPE columns of each picture.

    A finding counts against the model only where the item is labelled on that person one way or the other.
    """
    right, wrong, missed = (dict.fromkeys(PPE_CLASSES[1:], 0) for _ in range(3))
    people = matched = 0
    for truth, found, columns in results:
        persons = truth.boxes[truth.classes == 0]
        items, kinds = truth.boxes[truth.classes > 0], truth.classes[truth.classes > 0]
        labelled = assign_items(persons, items, kinds.astype(np.uint8))
        owners = np.frombuffer(columns.owners, "<u2").astype(np.intp)
        seen, scores = np.frombuffer(columns.items, np.uint8).astype(np.int64), np.frombuffer(columns.scores, "<f4")
        table = compute_iou_matrix(persons, found.boxes) * (found.classes == 0)
        people += len(persons)
        for person in range(len(persons)):
            true = get_predicted_labels(labelled, kinds, np.ones(len(kinds), np.float32), person)
            best = int(table[person].argmax()) if table.shape[1] else -1
            known = best >= 0 and table[person, best] >= MIN_IOU
            matched += known
            said = get_predicted_labels(owners, seen, scores, best) if known else []
            for name in true:
                (right if name in said else missed)[name] += 1
            about = {name.removeprefix("no_") for name in true}
            for name in said:
                if name not in true and name.removeprefix("no_") in about:
                    wrong[name] += 1
    f1 = {
        name: 2 * right[name] / max(1, 2 * right[name] + wrong[name] + missed[name])
        for name in right
        if right[name] + missed[name]
    }
    return PpeAccuracy(f1, people, matched)
