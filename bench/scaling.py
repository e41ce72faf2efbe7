"""What a scaler's choice does to detection: bodies of a labelled 1080p street that are found in the scaled pictures."""

from __future__ import annotations

import csv
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.harness import Row
from crowdperf.frames.ring import RingSpec
from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.settings.engine import Inference

CLIPS = Path(os.environ.get("CROWDPERF_CLIPS", "../shared/clips"))
EVERY = 6
CONFIDENCE = 0.25
PERSON = 0


class Effect(NamedTuple):
    """Of one scaler."""

    recall: float
    """Share of the labelled bodies whose centre lies in a box of its own."""
    boxes: float
    """Boxes per picture, the scene's mannequins among them."""


def bodies() -> dict[int, NDArray[np.float64]]:
    """Frame -> centres of the bodies, normalised, shape (n, 2); those whose centre is in the picture."""
    rows: dict[int, list[tuple[float, float]]] = defaultdict(list)
    with (CLIPS / "gt" / "towncentre_a_points.csv").open() as file:
        for row in csv.DictReader(file):
            x, y = float(row["x_center"]) / 1920, float(row["y_center"]) / 1080
            if 0 <= x <= 1 and 0 <= y <= 1:
                rows[int(row["frame0"])].append((x, y))
    return {frame: np.array(points) for frame, points in rows.items()}


def detector() -> Detector:
    """Return the person model in full precision, so that a scaler's effect is not hidden by a quantisation's."""
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as cache:
        return load_detector(Inference(device="cpu", runtime="openvino", precision="full"), Path(cache))


def effect(model: Detector, pictures: Iterator[bytearray], spec: RingSpec) -> Effect:
    """Detect in every `EVERY`th labelled picture of the clip."""
    truth = bodies()
    there = seen = boxes = looked = 0
    for index, picture in enumerate(pictures):
        if index % EVERY or index not in truth:
            continue
        found = model.detect([np.frombuffer(picture, np.uint8)], spec)[0]
        mine = found.boxes[(found.classes == PERSON) & (found.scores >= CONFIDENCE)]
        there += len(truth[index])
        seen += _matched(truth[index], mine)
        boxes += len(mine)
        looked += 1
    return Effect(seen / there, boxes / looked)


def _matched(points: NDArray[np.float64], boxes: NDArray[np.float32]) -> int:
    """Return how many points get a box that holds them, each box once; nearest centres first."""
    if not len(boxes):
        return 0
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((points[:, None] >= boxes[None, :, :2]) & (points[:, None] <= boxes[None, :, 2:])).all(2)
    distance = np.where(inside, np.abs(points[:, None] - centres[None]).sum(2), np.inf)
    count = 0
    while np.isfinite(distance).any():
        point, box = np.unravel_index(distance.argmin(), distance.shape)
        distance[point], distance[:, box] = np.inf, np.inf
        count += 1
    return count


def rows(found: dict[str, Effect], peer: str) -> list[Row]:
    """detection_recall/<variant> and detection_boxes/<variant>, beside FFmpeg's own default scaler."""
    made = []
    for name, mine in found.items():
        for what, value, other, unit in (
            ("recall", mine.recall, found[peer].recall, "share"),
            ("boxes", mine.boxes, found[peer].boxes, "boxes/frame"),
        ):
            made.append(
                Row(
                    name=f"detection_{what}/{name}",
                    value=value,
                    unit=unit,
                    limit_or_peer=peer,
                    ratio=value / other,
                    better="higher",
                )
            )
    return made
