"""How often one frame's vote about a person is right, on labelled pictures (CROWDPERF_IMAGES).

Person-level: the labelled people are the people, each labelled item belongs to the person it lies on, and one frame
votes as the PPE worker lets it vote. The worker needs three votes of one mind, so its violations are rarer and surer.
The peer is the same model's best finding at its threshold, without abstaining.

Clips (CROWDPERF_CLIPS) of people who all wear everything, or nothing of it: there the verdict over a whole appearance
is measured too, as the worker comes to it from frames of one a second or more.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.harness import Row
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.ppe_items import assign_items, detect_ppe
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.loader import load_detector
from crowdperf.models.postprocess import Detections
from crowdperf.settings.engine import Inference
from crowdperf.settings.ppe import ITEMS, PPE_CLASSES, Ppe
from crowdperf.workers.ppe import compute_vote, decide_verdict

Votes = dict[str, list[tuple[bool, float | None, float]]]
"""Item -> per labelled person: whether it is missing, the vote, and what the model alone says (missing less worn)."""


def folder() -> Path:
    """Return the labelled pictures."""
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


def collect(paths: list[Path], min_height_px: float) -> Votes:
    """Look at every picture."""
    settings = Ppe()
    found: Votes = {item: [] for item in ITEMS}
    with tempfile.TemporaryDirectory() as cache:
        detector = load_detector(Inference(), Path(cache), role="ppe", confidence=settings.confidence)
        for path in paths:
            image: Any = cv2.imread(str(path))
            height, width = image.shape[:2]
            spec = RingSpec(width, height, "bgr24", width, height, 4, 1.0, 0)
            classes, boxes = labels(path.parent.parent / "labels" / f"{path.stem}.txt")
            people = boxes[classes == 0]
            truth, at = classes[classes > 0], boxes[classes > 0]
            owners = assign_items(people, at, truth) if len(people) and len(at) else np.zeros(0, int)
            every = Detections(people, np.ones(len(people), np.float32), np.zeros(len(people), np.uint8))
            columns = detect_ppe(detector, image.reshape(-1), spec, every)
            for person in np.frombuffer(columns.persons, "<u2").tolist():
                own = {PPE_CLASSES[class_id] for class_id, owner in zip(truth.tolist(), owners) if owner == person}
                tall = float((people[person, 3] - people[person, 1]) * height)
                for item in ITEMS:
                    if (item in own) == (f"no_{item}" in own):
                        continue
                    worn, missing = best(columns, person, item), best(columns, person, f"no_{item}")
                    ballot = compute_vote(worn, missing, tall, min_height_px)
                    found[item].append((f"no_{item}" in own, ballot, missing - worn))
    return found


def precision_recall(rows: list[tuple[bool, float]]) -> tuple[float, float]:
    """Compute both of `missing`, from (truth, positive for missing)."""
    flagged = [truth for truth, value in rows if value > 0]
    total = sum(truth for truth, _ in rows)
    return sum(flagged) / max(1, len(flagged)), sum(flagged) / max(1, total)


CLIPS: tuple[tuple[str, bool, int, tuple[str, ...]], ...] = (
    ("intel_worker_zone.mp4", False, 3, ("hardhat", "vest")),
    ("intel_one_by_one.mp4", True, 5, ("hardhat", "vest")),
)
"""File, whether everybody lacks (or wears) the items, every which picture is looked at, the items."""
APART = 3
"""Pictures without anybody between two appearances; the clips show one person at a time."""


def appearances(path: Path, step: int, items: tuple[str, ...], cache: Path) -> list[dict[str, list[float | None]]]:
    """Per appearance the votes of every picture that was looked at, by item."""
    settings = Ppe()
    people = load_detector(Inference(), cache)
    equipment = load_detector(Inference(), cache, role="ppe", confidence=settings.confidence)
    clip = cv2.VideoCapture(str(path))
    found: list[dict[str, list[float | None]]] = []
    empty, index = APART, -1
    while True:
        index += 1
        good, image = clip.read()
        if not good:
            return found
        if index % step:
            continue
        height, width = image.shape[:2]
        spec = RingSpec(width, height, "bgr24", width, height, 4, 1.0, 0)
        frame = image.reshape(-1)
        columns = detect_ppe(equipment, frame, spec, seen := people.detect([frame], spec)[0])
        looked = np.frombuffer(columns.persons, "<u2").tolist()
        if not looked:
            empty += 1
            continue
        if empty >= APART:
            found.append({item: [] for item in items})
        empty = 0
        tallest = max(looked, key=lambda person: seen.boxes[person, 3] - seen.boxes[person, 1])
        tall = float((seen.boxes[tallest, 3] - seen.boxes[tallest, 1]) * height)
        for item in items:
            worn, missing = best(columns, tallest, item), best(columns, tallest, f"no_{item}")
            found[-1][item].append(compute_vote(worn, missing, tall, settings.least_height_px))


def clip_rows() -> list[Row]:
    """Per clip and item: the share of votes and of verdicts that are right, of those that say anything."""
    clips = Path(os.environ.get("CROWDPERF_CLIPS", "../shared/clips"))
    out = []
    with tempfile.TemporaryDirectory() as cache:
        for name, lacking, step, items in CLIPS:
            if not (clips / name).exists():
                continue
            shown = appearances(clips / name, step, items, Path(cache))
            for item in items:
                votes = [ballot for one in shown for ballot in one[item] if ballot is not None]
                frames = sum(len(one[item]) for one in shown)
                right = sum((ballot > 0) == lacking for ballot in votes)
                verdicts = [decide_verdict([ballot for ballot in one[item] if ballot is not None]) for one in shown]
                judged = [word for word in verdicts if word != "unsure"]
                good = sum(word == ("missing" if lacking else "worn") for word in judged)
                scene = f"{Path(name).stem}/{item}"
                for what, value, of in (
                    ("votes_right", right / len(votes) if votes else 0.0, len(votes)),
                    ("votes_cast", len(votes) / frames if frames else 0.0, frames),
                    ("verdicts_right", good / len(judged) if judged else 0.0, len(judged)),
                    ("verdicts_given", len(judged) / len(verdicts) if verdicts else 0.0, len(verdicts)),
                ):
                    out.append(
                        Row(name=f"ppe_{what}/{scene}", value=value, unit="share", repetitions=of, better="higher")
                    )
    return out


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
    return out if short else out + clip_rows()
