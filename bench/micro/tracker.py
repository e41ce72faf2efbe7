"""`PersonTracker` beside Ultralytics' BYTETracker on the same detections."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness import Row, microseconds, paired
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.tracker import PersonTracker

FRAMES = 200
FPS = 10.0


def crowd(people: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Boxes (n, 4) and scores (n,) of people who walk about, with noise, some of them weak."""
    random = np.random.default_rng(7)
    place, speed = random.uniform(0.1, 0.9, (people, 2)), random.uniform(-0.03, 0.03, (people, 2))
    frames = []
    for _ in range(FRAMES):
        place += speed / FPS
        speed[(place < 0.05) | (place > 0.95)] *= -1
        corners = np.concatenate([place - np.array([0.02, 0.06]), place + np.array([0.02, 0.06])], axis=1)
        frames.append(
            (
                (corners + random.normal(0, 0.001, corners.shape)).astype(np.float32),
                random.uniform(0.2, 0.95, people).astype(np.float32),
            )
        )
    return frames


class Found:
    """What BYTETracker reads of a result: numpy columns that can be indexed together."""

    def __init__(self, boxes: NDArray[np.float32], conf: NDArray[np.float32], cls: NDArray[np.float32]) -> None:
        self.xywh, self.conf, self.cls = boxes, conf, cls

    def __len__(self) -> int:
        return len(self.conf)

    def __getitem__(self, index: Any) -> Found:
        return Found(self.xywh[index], self.conf[index], self.cls[index])


def ours(frames: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Callable[[], object]:
    """One update with the next frame, for ever."""
    tracker, turn = PersonTracker(Tracking()), 0
    classes = np.zeros(len(frames[0][1]), np.uint8)

    def update() -> object:
        nonlocal turn
        turn += 1
        boxes, scores = frames[bounce(turn)]
        return tracker.update(turn / FPS, boxes, scores, classes)

    return update


def theirs(frames: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Callable[[], object]:
    """The same by Ultralytics, with its own default settings, in pixels of 1920 x 1080."""
    os.environ.setdefault("YOLO_OFFLINE", "true")
    from ultralytics.trackers.byte_tracker import BYTETracker

    tracker = BYTETracker(
        SimpleNamespace(
            track_high_thresh=0.25,
            track_low_thresh=0.1,
            new_track_thresh=0.25,
            track_buffer=30,
            match_thresh=0.8,
            fuse_score=True,
        )
    )
    scale = np.array([1920, 1080, 1920, 1080], np.float32)
    found = []
    for boxes, scores in frames:
        x1, y1, x2, y2 = (boxes * scale).T
        columns = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
        found.append(Found(columns, scores, np.zeros(len(scores), np.float32)))
    turn = 0

    def update() -> object:
        nonlocal turn
        turn += 1
        return tracker.update(found[bounce(turn)])

    return update


def bounce(turn: int) -> int:
    """Forward through the frames and back again, so that nobody ever jumps."""
    place = turn % (2 * FRAMES - 2)
    return place if place < FRAMES else 2 * FRAMES - 2 - place


def rows(short: bool) -> list[Row]:
    """tracker_update/<people>: microseconds per frame."""
    found = []
    for people in (5, 20, 60):
        frames = crowd(people)
        own, peer = ours(frames), theirs(frames)
        found.append(
            paired(
                f"tracker_update/{people}",
                lambda own=own: microseconds(own, 100),  # type: ignore[misc]
                lambda peer=peer: microseconds(peer, 50),  # type: ignore[misc]
                "ultralytics BYTETracker",
                repetitions=7 if short else 25,
            )
        )
    return found
