"""A clip through one or more configurations: frames are decoded and detected once for all that would see the same."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from crowdperf.capture.source import flags
from crowdperf.events.schema import CameraGap, Event, FrameDetections, LineCrossed, TrackedFrame, ZoneChanged
from crowdperf.inference.detector import Detector
from crowdperf.replay.clip import Clip, pictures
from crowdperf.replay.detections import BEGIN_S, detect, due
from crowdperf.replay.matching import Passage
from crowdperf.replay.setup import LIVE_ONLY, Setup
from crowdperf.settings.engine import Inference
from crowdperf.tracking.shard import pipeline_of

Open = Callable[[Inference], Detector]
Box = tuple[float, float, float, float]


class Crossing(NamedTuple):
    """A counted crossing, and where it was."""

    event: LineCrossed
    at_s: float
    """Seconds since the clip's first picture."""
    number: int
    """The picture, from 0."""
    box: Box | None
    """Of the object in that picture, normalised; None where the tracker did not show it yet."""

    def passage(self, aspect: float, centre: bool) -> Passage:
        """For `matching`; the place is the anchor, in picture heights (`aspect`: width / height)."""
        x1, y1, x2, y2 = self.box or (math.nan,) * 4
        y = (y1 + y2) / 2 if centre else y2
        return Passage(self.at_s, self.event.line, self.event.direction, (x1 + x2) / 2 * aspect, y)


class ZoneSummary(Struct, frozen=True):
    """What happened in a zone."""

    entered: int = 0
    left: int = 0
    most: int = 0
    """Greatest occupancy."""
    at_end: int = 0


class Outcome(NamedTuple):
    """What one configuration counts on a clip."""

    setup: Setup
    events: list[Event]
    crossings: list[Crossing]
    zones: dict[str, ZoneSummary]
    analysed: int
    """Frames that went through the model for it."""
    model: str

    def counts(self) -> Counter[tuple[str, str, str]]:
        """(line, direction, class) -> crossings."""
        return Counter((one.event.line, one.event.direction, one.event.klass) for one in self.crossings)

    @property
    def gaps(self) -> list[CameraGap]:
        """Stretches of the clip without a picture, where crossings may be missing."""
        return [event for event in self.events if isinstance(event, CameraGap)]


class Replayed(NamedTuple):
    """A clip after all configurations."""

    clip: Clip
    times: list[float]
    """Of every picture, seconds since the first."""
    outcomes: list[Outcome]
    took_s: float
    """Decoding, detection, tracking and counting; without loading the models."""

    @property
    def length_s(self) -> float:
        """Seconds that the clip lasts."""
        return self.times[-1] + 1 / self.clip.fps if self.times else 0.0

    @property
    def speed(self) -> float:
        """Times as fast as it was filmed."""
        return self.length_s / max(self.took_s, 1e-9)


def silent(_: float) -> None:
    """Tell nobody how far the replay is."""


def run(
    clip: Clip, setups: Sequence[Setup], open_detector: Open, progress: Callable[[float], None] = silent
) -> Replayed:
    """Count a clip with each setup.

    Args:
        open_detector: how a configuration's model is loaded.
        progress: called with the second of the clip that the replay has come to.

    Raises:
        ClipError: the clip cannot be read.
        ModelError: a model cannot be had, or cannot take this picture.
        SourceError: a flag of FFmpeg that is not allowed.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, setup in enumerate(setups):
        groups.setdefault(setup.sees(clip), []).append(index)
    outcomes: dict[int, Outcome] = {}
    times: list[float] = []
    took_s = 0.0
    for members in groups.values():
        detector = open_detector(setups[members[0]].inference)
        spec = setups[members[0]].spec(clip)
        detector.warm([spec])
        began = time.perf_counter()
        times, found = _detect(clip, [setups[index] for index in members], detector, progress)
        for index, frames in zip(members, found):
            outcomes[index] = count(frames, setups[index], _named(detector))
        took_s += time.perf_counter() - began
    return Replayed(clip, times, [outcomes[index] for index in range(len(setups))], took_s)


def _detect(
    clip: Clip, setups: list[Setup], detector: Detector, progress: Callable[[float], None]
) -> tuple[list[float], list[list[FrameDetections]]]:
    """The times of all pictures, and each setup's frames; a frame that several want is detected once."""
    rules = [due(setup.capture.target_fps, setup.capture.frame_skip) for setup in setups]
    chosen: list[set[int]] = [set() for _ in setups]

    def wanted(sequence: int, at_s: float) -> bool:
        progress(at_s)
        asking = [own for own, rule in zip(chosen, rules) if rule(sequence, at_s)]
        for own in asking:
            own.add(sequence)
        return bool(asking)

    spec = setups[0].spec(clip)
    extra, output = ffmpeg_flags(setups[0])
    seen = detect(pictures(clip, spec, extra, output), spec, detector, wanted, setups[0].tracked.camera_id)
    return seen.times, [[frame for frame in seen.frames if frame.sequence in own] for own in chosen]


def ffmpeg_flags(setup: Setup) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The flags before the input and before the output that a recording can take.

    Raises:
        SourceError: one of them is not allowed.
    """
    own = setup.capture
    return (
        _for_recordings(flags(own.ffmpeg_extra_flags, "FFMPEG_EXTRA_FLAGS")),
        _for_recordings(flags(own.ffmpeg_flags, "ffmpeg_flags")),
    )


def _for_recordings(tokens: list[str]) -> tuple[str, ...]:
    kept: list[str] = []
    rest = iter(tokens)
    for token in rest:
        if token in LIVE_ONLY:
            next(rest, None)
        else:
            kept.append(token)
    return tuple(kept)


def count(frames: Sequence[FrameDetections], setup: Setup, model: str = "") -> Outcome:
    """Track and count frames that have been detected."""
    pipeline = pipeline_of(setup.tracked, setup.tracking)
    events: list[Event] = []
    shown: dict[int, TrackedFrame] = {}
    for frame in frames:
        tracked, new = pipeline.step(frame)
        events += new
        if tracked is not None:
            shown[frame.sequence] = tracked
    events += pipeline.finish()
    crossings = [_crossing(event, shown) for event in events if isinstance(event, LineCrossed)]
    at_end = pipeline.occupancy()
    zones = {zone.id: _zone(zone.id, events, at_end.get(zone.id, 0)) for zone in setup.tracked.zones}
    return Outcome(setup, events, crossings, zones, len(frames), model)


def _crossing(event: LineCrossed, shown: dict[int, TrackedFrame]) -> Crossing:
    frame = shown.get(event.sequence)
    box: Box | None = None
    if frame is not None:
        (found,) = np.nonzero(np.frombuffer(frame.tracks, "<u4") == event.track)
        if len(found):
            x1, y1, x2, y2 = np.frombuffer(frame.boxes, "<f4").reshape(-1, 4)[found[0]].tolist()
            box = x1, y1, x2, y2
    return Crossing(event, event.ts - BEGIN_S, event.sequence - 1, box)


def _zone(zone: str, events: Sequence[Event], at_end: int) -> ZoneSummary:
    changes = [event for event in events if isinstance(event, ZoneChanged) and event.zone == zone]
    entered = sum(event.change == "in" for event in changes)
    return ZoneSummary(entered, len(changes) - entered, max([0, *(event.occupancy for event in changes)]), at_end)


def _named(detector: Detector) -> str:
    return f"{detector.model} ({detector.runtime.name}, {detector.precision})"
