"""`PersonTracker` beside Ultralytics' BYTETracker on the same detections: time, agreement with the truth, memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from bench import clips, mot
from bench.harness import Row, microseconds, paired
from crowdperf.messaging.schema import FrameDetections
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.tracker import PersonTracker

FRAMES = 200
FPS = 10.0
LIMIT_US = 250.0
"""Of an update with 20 people."""
SIZE = np.array([768, 576, 768, 576], np.float64)
MOT_FRAMES = 795
DAY_S = 86_400


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
    """Return a function that updates the tracker with the next frame, for ever."""
    tracker, turn = PersonTracker(Tracking()), 0
    classes = np.zeros(len(frames[0][1]), np.uint8)

    def update() -> object:
        nonlocal turn
        turn += 1
        boxes, scores = frames[bounce(turn)]
        return tracker.update(turn / FPS, boxes, scores, classes)

    return update


def theirs(frames: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Callable[[], object]:
    """Return the same by Ultralytics, with its own default settings, in pixels of 1920 x 1080."""
    os.environ.setdefault("YOLO_OFFLINE", "true")
    from ultralytics.trackers.byte_tracker import BYTETracker

    tracker = BYTETracker(SimpleNamespace(**DEFAULTS))
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


DEFAULTS = {
    "track_high_thresh": 0.25,
    "track_low_thresh": 0.1,
    "new_track_thresh": 0.25,
    "track_buffer": 30,
    "match_thresh": 0.8,
    "fuse_score": True,
}
"""Ultralytics' own, of bytetrack.yaml."""


def bounce(turn: int) -> int:
    """Go forward through the frames and back again, so that no track jumps."""
    place = turn % (2 * FRAMES - 2)
    return place if place < FRAMES else 2 * FRAMES - 2 - place


Columns = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]


def columns(frame: FrameDetections) -> Columns:
    """Boxes, scores and classes of a message."""
    count = len(frame.classes)
    return (
        np.frombuffer(frame.boxes, "<f4").reshape(count, 4),
        np.frombuffer(frame.scores, "<f4"),
        np.frombuffer(frame.classes, np.uint8),
    )


def tracked_by_us(frames: list[FrameDetections]) -> list[mot.Frame]:
    """Confirmed people of every frame."""
    tracker, found = PersonTracker(Tracking()), []
    for frame in frames:
        tracks = tracker.update(frame.captured_at_ns / 1e9, *columns(frame), 768 / 576)
        shown = tracks.confirmed & (tracks.classes == 0)
        found.append(mot.Frame(tracks.boxes[shown] * SIZE, tracks.ids[shown].astype(np.int64)))
    return found


def tracked_by_them(frames: list[FrameDetections]) -> list[mot.Frame]:
    """Return the same by Ultralytics."""
    os.environ.setdefault("YOLO_OFFLINE", "true")
    from ultralytics.trackers.byte_tracker import BYTETracker

    tracker, found = BYTETracker(SimpleNamespace(**DEFAULTS)), []
    for frame in frames:
        boxes, scores, classes = columns(frame)
        x1, y1, x2, y2 = (boxes * SIZE).astype(np.float32).T
        middle = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
        rows = np.asarray(tracker.update(Found(middle, scores, classes.astype(np.float32)))).reshape(-1, 8)
        rows = rows[rows[:, 6] == 0]
        found.append(mot.Frame(rows[:, :4].astype(np.float64), rows[:, 4].astype(np.int64)))
    return found


def quality() -> list[Row]:
    """HOTA, IDF1 and MOTA on PETS09-S2L1 at 7 and at 3.5 frames a second, none where the clip is not there."""
    scene = next((scene for scene in clips.scenes() if scene.name == "vtest"), None)
    if scene is None:
        return []
    truth = mot.read_truth(clips.folder() / "gt" / "vtest_mot_gt.txt", MOT_FRAMES)
    frames = clips.detections(scene, clips.detector())
    found = []
    for every in (1, 2):
        own = mot.compare(truth[::every], tracked_by_us(frames[::every]))
        peer = mot.compare(truth[::every], tracked_by_them(frames[::every]))
        for name in ("hota", "idf1", "mota"):
            mine, other = getattr(own, name), getattr(peer, name)
            found.append(
                Row(
                    name=f"tracker_{name}/vtest@{scene.fps / every:.3g}fps",
                    value=mine,
                    unit="share",
                    limit_or_peer="ultralytics BYTETracker",
                    ratio=mine / other,
                    better="higher",
                )
            )
    return found


def memory(hours: float) -> Row:
    """Growth of the process over simulated hours, in which people come and go, after a warm-up of a tenth."""
    tracker, random = PersonTracker(Tracking()), np.random.default_rng(11)
    process, steps = psutil.Process(), int(hours * DAY_S / 24 * FPS)
    warm, before = steps // 10, 0
    for step in range(steps):
        if step == warm:
            before = process.memory_info().rss
        if step % 50 == 0:
            people = 1 + (step // 50) % 12
            corner = random.random((people, 2), np.float32) * np.float32(0.8)
        boxes = np.concatenate([corner, corner + np.float32(0.1)], axis=1)
        tracker.update(step / FPS, boxes, np.full(people, 0.8, np.float32), np.zeros(people, np.uint8))
    grown = max(0.0, (process.memory_info().rss - before) / 2**20)
    return Row(
        name=f"tracker_memory_growth/{hours:g}h", value=grown, unit="MiB", limit_or_peer="limit 1", ratio=grown / 1.0
    )


def rows(short: bool) -> list[Row]:
    """tracker_update/<people>: microseconds per frame; then quality and memory."""
    found = []
    for people in (5, 20, 60):
        frames = crowd(people)
        own, peer = ours(frames), theirs(frames)
        row = paired(
            f"tracker_update/{people}",
            functools.partial(microseconds, own, 100),
            functools.partial(microseconds, peer, 50),
            "ultralytics BYTETracker",
            repetitions=7 if short else 25,
        )
        found.append(row)
        if people == 20:
            found.append(
                Row(
                    name="tracker_update_limit/20",
                    value=row.value,
                    unit="us",
                    limit_or_peer=f"limit {LIMIT_US:g}",
                    ratio=row.value / LIMIT_US,
                    repetitions=row.repetitions,
                )
            )
    return found + quality() + [memory(1.0 if short else 24.0)]
