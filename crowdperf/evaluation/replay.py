"""Replay of a clip with one or more configurations; those that see the same frames share decoding and detection."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from crowdperf.capture.ffmpeg_args import remove_flags
from crowdperf.capture.network.url_policy import parse_flags
from crowdperf.evaluation.camera_setup import LIVE_ONLY_OPTIONS, CameraSetup
from crowdperf.evaluation.clip import CLIP_START_S, Clip, ClipDetections, build_frame_filter, detect_clip, read_frames
from crowdperf.evaluation.matching import Passage
from crowdperf.messaging.schema import CameraGap, Event, FrameDetections, LineCrossed, TrackedFrame, ZoneChanged
from crowdperf.models.detector import Detector
from crowdperf.settings.engine import Inference
from crowdperf.tracking.shard import create_pipeline

DetectorFactory = Callable[[Inference], Detector]
NormalizedBox = tuple[float, float, float, float]


class CountedCrossing(NamedTuple):
    """A counted crossing and its place."""

    event: LineCrossed
    at_s: float
    """Seconds since the clip's first picture."""
    number: int
    """Number of the picture, from 0."""
    box: NormalizedBox | None
    """Box of the object in that picture, normalised; None if the track was not confirmed yet."""

    def to_passage(self, aspect: float, centre: bool) -> Passage:
        """Convert to a passage at the anchor, in picture heights; `aspect` is width / height."""
        x1, y1, x2, y2 = self.box or (math.nan,) * 4
        y = (y1 + y2) / 2 if centre else y2
        return Passage(self.at_s, self.event.line, self.event.direction, (x1 + x2) / 2 * aspect, y)


class ZoneSummary(Struct, frozen=True):
    """Events and occupancy of a zone."""

    entered: int = 0
    left: int = 0
    most: int = 0
    """Largest occupancy."""
    at_end: int = 0


class ReplayOutcome(NamedTuple):
    """Result of one configuration on a clip."""

    setup: CameraSetup
    events: list[Event]
    crossings: list[CountedCrossing]
    zones: dict[str, ZoneSummary]
    analysed: int
    """Number of frames that the model analysed."""
    model: str = ""
    look_share: float = 1.0
    """Share of their area that the model looked at."""

    def describe(self) -> str:
        """Describe in one line what was analysed, and by which model."""
        looked = f", {self.look_share:.0%} of their area looked at" if self.look_share < 1 else ""
        return f"{self.analysed} frames analysed{looked}, model {self.model}"

    def count_by_line(self) -> Counter[tuple[str, str, str]]:
        """Count the crossings by (line, direction, class)."""
        events = [crossing.event for crossing in self.crossings]
        return Counter((event.line, event.direction, event.class_name) for event in events)

    @property
    def gaps(self) -> list[CameraGap]:
        """Parts of the clip without pictures, where crossings may be missing."""
        return [event for event in self.events if isinstance(event, CameraGap)]


class ReplayResult(NamedTuple):
    """Result of all configurations on a clip."""

    clip: Clip
    times: list[float]
    """Time of every picture, seconds since the first."""
    outcomes: list[ReplayOutcome]
    took_s: float
    """Time for decoding, detection, tracking and counting, without loading the models."""

    @property
    def length_s(self) -> float:
        """Length of the clip in seconds."""
        return self.times[-1] + 1 / self.clip.fps if self.times else 0.0

    @property
    def speed(self) -> float:
        """Speed relative to real time."""
        return self.length_s / max(self.took_s, 1e-9)


def replay_clip(
    clip: Clip,
    setups: Sequence[CameraSetup],
    open_detector: DetectorFactory,
    progress: Callable[[float], None] = lambda _: None,
) -> ReplayResult:
    """Count a clip with each setup.

    Args:
        clip: the recording.
        setups: the configurations.
        open_detector: loads a configuration's model.
        progress: called with the current second of the clip.

    Returns:
        One outcome per setup, in their order.

    Raises:
        ClipError: the clip cannot be read.
        ModelError: a model is not available, or cannot run at this size.
        SourceError: a flag of FFmpeg is not allowed.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, setup in enumerate(setups):
        groups.setdefault(setup.get_detection_key(clip), []).append(index)
    outcomes: dict[int, ReplayOutcome] = {}
    times: list[float] = []
    took_s = 0.0
    for members in groups.values():
        detector = open_detector(setups[members[0]].inference)
        spec = setups[members[0]].build_ring_spec(clip)
        detector.warm([spec])
        model = f"{detector.model} ({detector.backend.name}, {detector.precision})"
        began = time.perf_counter()
        found, frames_by_setup = _detect_group(clip, [setups[index] for index in members], detector, progress)
        times = found.times
        for index, frames in zip(members, frames_by_setup):
            outcome = count_crossings(frames, setups[index])
            outcomes[index] = outcome._replace(model=model, look_share=found.look_share)
        took_s += time.perf_counter() - began
    return ReplayResult(clip, times, [outcomes[index] for index in range(len(setups))], took_s)


def _detect_group(
    clip: Clip, setups: list[CameraSetup], detector: Detector, progress: Callable[[float], None]
) -> tuple[ClipDetections, list[list[FrameDetections]]]:
    """Return all detections, and each setup's frames; a shared frame is detected once."""
    filters = [build_frame_filter(setup.capture.target_fps, setup.capture.frame_skip) for setup in setups]
    selected: list[set[int]] = [set() for _ in setups]

    def select(sequence: int, at_s: float) -> bool:
        progress(at_s)
        matching = [sequences for sequences, passes in zip(selected, filters) if passes(sequence, at_s)]
        for sequences in matching:
            sequences.add(sequence)
        return bool(matching)

    spec = setups[0].build_ring_spec(clip)
    extra, output = get_ffmpeg_flags(setups[0])
    camera, analysis = setups[0].tracked.camera_id, setups[0].inference.analysis
    result = detect_clip(read_frames(clip, spec, extra, output), spec, detector, select, camera, analysis)
    return result, [[frame for frame in result.frames if frame.sequence in sequences] for sequences in selected]


def get_ffmpeg_flags(setup: CameraSetup) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the input and output flags that fit a recording, or raise SourceError for a forbidden one."""
    extra = parse_flags(setup.capture.ffmpeg_extra_flags, "FFMPEG_EXTRA_FLAGS")
    output = parse_flags(setup.capture.ffmpeg_flags, "ffmpeg_flags")
    return tuple(remove_flags(extra, LIVE_ONLY_OPTIONS)), tuple(remove_flags(output, LIVE_ONLY_OPTIONS))


def count_crossings(frames: Sequence[FrameDetections], setup: CameraSetup) -> ReplayOutcome:
    """Track and count the detections of a clip, in order."""
    pipeline = create_pipeline(setup.tracked, setup.tracking)
    events: list[Event] = []
    tracked_frames: dict[int, TrackedFrame] = {}
    for frame in frames:
        tracked, new_events = pipeline.step(frame)
        events += new_events
        if tracked is not None:
            tracked_frames[frame.sequence] = tracked
    events += pipeline.finish()
    crossings = [_build_crossing(event, tracked_frames) for event in events if isinstance(event, LineCrossed)]
    at_end = pipeline.get_occupancy()
    zones = {zone.id: _summarize_zone(zone.id, events, at_end.get(zone.id, 0)) for zone in setup.tracked.zones}
    return ReplayOutcome(setup, events, crossings, zones, len(frames))


def _build_crossing(event: LineCrossed, tracked_frames: dict[int, TrackedFrame]) -> CountedCrossing:
    frame = tracked_frames.get(event.sequence)
    box: NormalizedBox | None = None
    if frame is not None:
        (rows,) = np.nonzero(np.frombuffer(frame.tracks, "<u4") == event.track)
        if len(rows):
            x1, y1, x2, y2 = np.frombuffer(frame.boxes, "<f4").reshape(-1, 4)[rows[0]].tolist()
            box = x1, y1, x2, y2
    return CountedCrossing(event, event.ts - CLIP_START_S, event.sequence - 1, box)


def _summarize_zone(zone: str, events: Sequence[Event], at_end: int) -> ZoneSummary:
    changes = [event for event in events if isinstance(event, ZoneChanged) and event.zone == zone]
    entered = sum(event.change == "in" for event in changes)
    return ZoneSummary(entered, len(changes) - entered, max([0, *(event.occupancy for event in changes)]), at_end)
