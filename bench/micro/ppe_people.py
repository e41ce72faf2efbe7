"""How often one frame's vote about a person is right, on labelled pictures (CROWDPERF_IMAGES).

Person-level: the labelled people are the people, each labelled item belongs to the person it lies on, and one frame
votes as the PPE worker lets it vote. The worker needs three votes of one mind, so its violations are rarer and surer.
The peer is the same model's best finding at its threshold, without abstaining.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from bench.harness import Row
from crowdperf.events.schema import PpeColumns
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.detector import load_detector
from crowdperf.inference.nms import Found
from crowdperf.inference.ppe import belonging, look
from crowdperf.settings.engine import Inference
from crowdperf.settings.ppe import ITEMS, PPE_CLASSES, Ppe
from crowdperf.workers.ppe.votes import vote

Votes = dict[str, list[tuple[bool, float | None, float]]]
"""Item -> per labelled person: whether it is missing, the vote, and what the model alone says (missing less worn)."""


def folder() -> Path:
    """The labelled pictures."""
    found = Path(os.environ.get("CROWDPERF_IMAGES", "../shared/images")) / "ppe"
    if not (found / "labels").is_dir():
        sys.exit(f"no labelled pictures at {found}. Remedy: set CROWDPERF_IMAGES to the folder that holds ppe/.")
    return found


def labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Classes uint8 (n,) and boxes float32 (n, 4), x1 y1 x2 y2 normalised."""
    rows = np.array([line.split() for line in path.read_text().splitlines()], np.float32).reshape(-1, 5)
    centre, half = rows[:, 1:3], rows[:, 3:5] / 2
    return rows[:, 0].astype(np.uint8), np.concatenate([centre - half, centre + half], axis=1)


def best(columns: PpeColumns, person: int, name: str) -> float:
    """Best score of one class on one person, 0 where it was not found."""
    owners, items = np.frombuffer(columns.owners, "<u2"), np.frombuffer(columns.items, np.uint8)
    scores = np.frombuffer(columns.scores, "<f4")[(owners == person) & (items == PPE_CLASSES.index(name))]
    return float(scores.max()) if len(scores) else 0.0


def collect(paths: list[Path], least_height_px: float) -> Votes:
    """Look at every picture."""
    settings = Ppe()
    found: Votes = {item: [] for item in ITEMS}
    with tempfile.TemporaryDirectory() as cache:
        detector = load_detector(Inference(), Path(cache), role="ppe", confidence=settings.confidence)
        for path in paths:
            image = cv2.imread(str(path))
            height, width = image.shape[:2]
            spec = RingSpec(width, height, "bgr24", width, height, 4, 1.0, 0)
            classes, boxes = labels(path.parent.parent / "labels" / f"{path.stem}.txt")
            people = boxes[classes == 0]
            truth, at = classes[classes > 0], boxes[classes > 0]
            owners = belonging(people, at, truth) if len(people) and len(at) else np.zeros(0, int)
            every = Found(people, np.ones(len(people), np.float32), np.zeros(len(people), np.uint8))
            columns = look(detector, image.reshape(-1), spec, every)
            for person in np.frombuffer(columns.persons, "<u2").tolist():
                own = {PPE_CLASSES[klass] for klass, owner in zip(truth.tolist(), owners) if owner == person}
                tall = float((people[person, 3] - people[person, 1]) * height)
                for item in ITEMS:
                    if (item in own) == (f"no_{item}" in own):
                        continue
                    worn, missing = best(columns, person, item), best(columns, person, f"no_{item}")
                    ballot = vote(worn, missing, tall, least_height_px)
                    found[item].append((f"no_{item}" in own, ballot, missing - worn))
    return found


def precision_recall(rows: list[tuple[bool, float]]) -> tuple[float, float]:
    """Of `missing`, from (truth, positive for missing)."""
    said = [truth for truth, value in rows if value > 0]
    total = sum(truth for truth, _ in rows)
    return sum(said) / max(1, len(said)), sum(said) / max(1, total)


def rows(short: bool) -> list[Row]:
    """Precision and recall of "missing", and how many people were not judged, per item."""
    paths = sorted((folder() / "images").glob("*.jpg"))[:: 4 if short else 1]
    out = []
    for item, people in collect(paths, Ppe().least_height_px).items():
        if not any(truth for truth, _, _ in people):
            continue
        voted = precision_recall([(truth, ballot or 0.0) for truth, ballot, _ in people])
        alone = precision_recall([(truth, value) for truth, _, value in people])
        silent = sum(ballot is None for _, ballot, _ in people) / len(people)
        for name, mine, peer in (("precision", voted[0], alone[0]), ("recall", voted[1], alone[1])):
            out.append(
                Row(
                    name=f"ppe_missing_{name}/{item}",
                    value=mine,
                    unit="share",
                    limit_or_peer="the model's best finding",
                    ratio=mine / peer if peer else None,
                    repetitions=len(people),
                    better="higher",
                )
            )
        out.append(Row(name=f"ppe_abstained/{item}", value=silent, unit="share", repetitions=len(people)))
    return out
