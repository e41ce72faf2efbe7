"""What the detector finds in a clip: the frames that the site would analyse, in fixed batches, by the clip's own clock.

Nothing here looks at a clock of the machine, so that the same clip and settings give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from crowdperf.events.schema import FrameDetections
from crowdperf.frames.layout import RingSpec
from crowdperf.frames.ring import FrameStamp
from crowdperf.inference.detector import Detector
from crowdperf.inference.schedule import TokenBucket
from crowdperf.inference.service import build_frame_detections
from crowdperf.replay.clip import ClipFrame

BATCH_SIZE = 8
"""Frames per call of the detector, on every machine: the size of a batch may change the last bit of a box."""
CLIP_START_S = 1_700_000_000
"""Unix seconds of a clip's first picture: any fixed moment will do, so that ids and times repeat."""
CLIP_EPOCH = 1
FrameFilter = Callable[[int, float], bool]
"""Whether the frame of that ring sequence (from 1), at that second of the clip, is analysed; called in order."""


class ClipDetections(NamedTuple):
    """A clip after the detector."""

    frames: list[FrameDetections]
    """The analysed ones; sequence is the picture's number plus one."""
    times: list[float]
    """Of every picture, seconds since the first."""


def build_frame_filter(target_fps: float, frame_skip: int) -> FrameFilter:
    """The rule by which inference picks a camera's frames (`inference.schedule`), for a source that never stalls."""
    pace, every = TokenBucket(target_fps), frame_skip + 1
    return lambda sequence, at_s: sequence % every == 0 and pace.admit(at_s)


def detect_clip(
    pictures: Iterable[ClipFrame], spec: RingSpec, detector: Detector, frame_filter: FrameFilter, camera: str = "clip"
) -> ClipDetections:
    """Analyse the pictures that `wanted` picks.

    Args:
        pictures: in order, of the geometry `spec`.
        camera: the id that the detections bear.

    Raises:
        ModelError: the model cannot run at this geometry.
    """
    seen = ClipDetections([], [])
    waiting: list[ClipFrame] = []

    def analyse() -> None:
        for picture, found in zip(waiting, detector.detect([picture.data for picture in waiting], spec)):
            at_ns = round((CLIP_START_S + picture.at_s) * 1e9)
            seen.frames.append(
                build_frame_detections(camera, spec, FrameStamp(CLIP_EPOCH, picture.number + 1, at_ns, at_ns), found)
            )
        waiting.clear()

    for picture in pictures:
        seen.times.append(picture.at_s)
        if frame_filter(picture.number + 1, picture.at_s):
            waiting.append(picture)
        if len(waiting) == BATCH_SIZE:
            analyse()
    if waiting:
        analyse()
    return seen
