"""Hand-made tracks and detections for counters and trackers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crowdperf.counting.lines import LineCounter
from crowdperf.counting.samples import FrameMoment, Sample
from crowdperf.messaging.schema import FrameDetections, LineCrossed
from crowdperf.settings.camera import Line

FPS = 10.0
LINE = Line(id="door", p1=[0.5, 0.1], p2=[0.5, 0.9])
"""Vertical and downwards: the smaller x is the positive side, so that a walk to the right is `out`."""


def moment(frame: int, epoch: int = 1) -> FrameMoment:
    """Return the frame's moment at 10 frames a second."""
    return FrameMoment(frame / FPS, 1_700_000_000 + frame / FPS, epoch, frame)


def sample(
    track: int, x: float, y: float = 0.5, *, class_id: int = 0, confirmed: bool = True, h: float = 0.1
) -> Sample:
    """Return a sample whose anchor is at (x, y); with an aspect of 1 these are normalised coordinates."""
    return Sample(track, x, y, y - h / 2, h, class_id, confirmed)


def counter(line: Line = LINE, memory_s: float = 1.5) -> LineCounter:
    """Return a counter over a square picture."""
    made = LineCounter("lobby", line, memory_s)
    made.set_aspect(1.0)
    return made


def count(
    frames: Sequence[Sequence[Sample]], line: Line = LINE, ended: dict[int, list[int]] | None = None
) -> list[LineCrossed]:
    """Events of a whole sequence; `ended` maps a frame to the ids that end in it."""
    made = counter(line)
    events = []
    for number, samples in enumerate(frames):
        events += made.update(moment(number), samples, (ended or {}).get(number, []))
    return events


def totals(events: Sequence[object]) -> tuple[int, int]:
    """Return (in, out) of the line crossings."""
    ways = [event.direction for event in events if isinstance(event, LineCrossed)]
    return ways.count("in"), ways.count("out")


def detections(
    sequence: int,
    boxes: Sequence[tuple[float, float, float, float]],
    *,
    class_id: int | Sequence[int] = 0,
    score: float = 0.9,
    epoch: int = 1,
    at_s: float | None = None,
    size: tuple[int, int] = (640, 640),
) -> FrameDetections:
    """Return a frame's message; `at_s` defaults to ten frames a second."""
    seconds = 1_700_000_000 + (sequence / FPS if at_s is None else at_s)
    classes = np.full(len(boxes), class_id, np.uint8) if isinstance(class_id, int) else np.array(class_id, np.uint8)
    return FrameDetections(
        camera="lobby",
        epoch=epoch,
        sequence=sequence,
        captured_at_ns=round(seconds * 1e9),
        boxes=np.array(boxes, np.float32).reshape(len(boxes), 4).tobytes(),
        scores=np.full(len(boxes), score, np.float32).tobytes(),
        classes=classes.tobytes(),
        source_width=size[0],
        source_height=size[1],
    )


def standing(x: float, y: float, width: float = 0.06, height: float = 0.2) -> tuple[float, float, float, float]:
    """Return the box whose bottom centre is (x, y)."""
    return x - width / 2, y - height, x + width / 2, y
