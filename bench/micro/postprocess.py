"""What suppression of one picture costs, beside the same in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.harness import Row, microseconds, paired
from crowdperf.models.postprocess import non_max_suppression

WIDTH, HEIGHT = 640, 384
CANDIDATES_PER_PERSON = 7
"""Boxes of one person that pass the confidence: what the person model was seen to give."""
IOU = 0.7

Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]
Suppress = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.integer], float], NDArray[np.intp]]


def suppress_in_numpy(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.integer], iou: float
) -> NDArray[np.intp]:
    """Suppress as `non_max_suppression` does, by one row of overlaps for each kept box."""
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    area = (x2 - x1) * (y2 - y1)
    zero, limit = np.float32(0), np.float32(iou)
    kept: list[np.intp] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        across = np.maximum(np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]), zero)
        down = np.maximum(np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]), zero)
        overlap = across * down
        # Multiplied instead of divided: boxes without area need no special case.
        suppressed = overlap > limit * (area[best] + area[rest] - overlap)
        suppressed &= classes[best] == classes[rest]
        order = rest[~suppressed]
    return np.array(kept, np.intp)


def make_candidates(people: int) -> Candidates:
    """Make boxes, scores and classes around that many people, clipped to the picture."""
    random = np.random.default_rng(people)
    corners = random.uniform(0, 1, (people, 2)) * [WIDTH - 40, HEIGHT - 44]
    sides = random.uniform(20, 60, (people, 1)) * [1, 2]
    count = people * CANDIDATES_PER_PERSON
    boxes = np.repeat(np.concatenate([corners, corners + sides], axis=1), CANDIDATES_PER_PERSON, axis=0)
    boxes = np.clip(boxes + random.normal(0, 3, (count, 4)), 0, [WIDTH, HEIGHT] * 2)
    classes = np.repeat(random.integers(0, 3, people), CANDIDATES_PER_PERSON)
    return boxes.astype(np.float32), random.uniform(0.1, 0.9, count).astype(np.float32), classes.astype(np.int16)


def rows(short: bool) -> list[Row]:
    """Rows suppress/10, suppress/60 and suppress/200 people: microseconds per picture."""

    def timer(suppress: Suppress, candidates: Candidates) -> Callable[[], float]:
        return lambda: microseconds(lambda: suppress(*candidates, IOU), 20)

    found = []
    for people in (10, 60, 200):
        candidates = make_candidates(people)
        assert np.array_equal(non_max_suppression(*candidates, IOU), suppress_in_numpy(*candidates, IOU))
        found.append(
            paired(
                f"suppress/{people}",
                timer(non_max_suppression, candidates),
                timer(suppress_in_numpy, candidates),
                "numpy",
                unit="us/picture",
                repetitions=5 if short else 15,
            )
        )
    return found
