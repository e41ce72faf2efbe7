"""One camera from detections to events: tracker, counters and gap detection. Pure and deterministic.

The same frames give the same events with the same ids, whether or not the state was stored and restored in between:
that is what makes a replay after a crash harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from crowdperf.counting.camera_counter import CameraCounter, CountingState
from crowdperf.counting.density import DensityMinute
from crowdperf.counting.samples import FrameMoment, Sample
from crowdperf.messaging.schema import CameraGap, Event, FrameDetections, QueueNow, TrackedFrame
from crowdperf.settings.base import CLASSES
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.ppe_observations import MalformedPpeError, build_observations, parse_findings
from crowdperf.tracking.tracker import CONFIRM_HITS, CONFIRM_S, PersonTracker, Tracks

VERSION = 2
DEFAULT_ASPECT = 16 / 9
MIN_GAP_FRAMES = 3.5
"""A pause of fewer frames is no gap, however few come in a second."""
FILTER_LAG_S = 0.1
"""A filtered box follows somebody who sets off by up to this much later."""
MAX_UNDECIDED_S = 3.0
"""How long after a pause somebody who does not leave a line keeps the gap open."""


class StateError(ValueError):
    """A stored state is of another version, or damaged."""


class MalformedFrameError(ValueError):
    """A message whose columns do not belong together."""


class OpenGap(Struct, array_like=True):
    """A pause that is over, while crossings may still be missed because of it."""

    id: str
    start: float
    """Unix seconds."""
    cause: str
    settled_s: float
    """Clock: it lasts until then at least, since new tracks are confirmed by then."""
    latest_s: float
    """Clock: it ends then, whoever is still on a line."""


class _PipelineState(Struct, array_like=True):
    version: int
    epoch: int
    sequence: int
    captured_at_ns: int
    clock_s: float
    aspect: float
    tracker: bytes
    counting: CountingState
    gap: OpenGap | None = None


class CameraPipeline:
    """Tracker, lines and zones of one camera."""

    def __init__(
        self, camera: str, settings: Tracking, lines: Sequence[Line], zones: Sequence[Zone], target_fps: float
    ) -> None:
        self.camera = camera
        self._settings = settings
        self._settle_s = max(CONFIRM_HITS / target_fps, CONFIRM_S + 1 / target_fps)
        self._frame_s = 1 / target_fps
        self._tracker = PersonTracker(settings)
        self._zones = tuple(zones)
        self._counter = CameraCounter(camera, tuple(lines), tuple(zones), settings.lost_s)
        self._epoch = 0
        self._sequence = 0
        self._captured_at_ns = 0
        self._clock_s = 0.0
        self._aspect = 0.0
        self._gap: OpenGap | None = None
        self._state_lost = False
        """The state before the next frame is lost."""

    def __len__(self) -> int:
        """Tracks that are remembered, unconfirmed and lost ones included."""
        return len(self._tracker)

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, sequence) of the newest frame taken, (0, 0) before the first."""
        return self._epoch, self._sequence

    def get_occupancy(self) -> dict[str, int]:
        """Zone id -> tracks inside."""
        return self._counter.get_occupancy()

    def get_queues(self) -> dict[str, QueueNow]:
        """Id of each zone of kind `queue` -> its length and waiting times."""
        return self._counter.get_queues()

    def take_density(self) -> list[DensityMinute]:
        """Minutes of the density grid that have ended, to be stored together with the next `state`."""
        return self._counter.take_density()

    def rewind(self) -> None:
        """Accept frames of a lower epoch from now on: the machine's clock went back and the ring was made anew."""
        self._epoch = self._sequence = 0

    def resume(self, epoch: int, sequence: int, captured_at_ns: int) -> None:
        """Go on after this frame without the state that it left behind; the next frame begins a gap.

        `captured_at_ns`: when that frame was captured (Unix), 0 where nobody knows.
        """
        self._epoch, self._sequence, self._captured_at_ns = epoch, sequence, captured_at_ns
        self._state_lost = True

    def step(self, frame: FrameDetections) -> tuple[TrackedFrame | None, list[Event]]:
        """Take one frame. A frame at or before the newest one is a redelivery: it gives (None, []).

        Raises:
            MalformedFrameError: the columns have different lengths, or hold what no model reports.
        """
        if (frame.epoch, frame.sequence) <= (self._epoch, self._sequence):
            return None, []
        boxes, scores, classes = _decode_columns(frame)
        try:
            worn = parse_findings(frame)
        except MalformedPpeError as error:
            raise MalformedFrameError(str(error)) from None
        aspect = frame.source_width / frame.source_height if frame.source_height else DEFAULT_ASPECT
        events = self._advance_clock(frame, reshaped=self._aspect not in (0.0, aspect))
        if aspect != self._aspect:
            self._counter.set_aspect(aspect)
            self._aspect = aspect
        tracks = self._tracker.update(self._clock_s, boxes, scores, classes, aspect)
        events += self._counter.update(self._to_moment(frame), _build_samples(tracks, aspect), tracks.ended.tolist())
        events += build_observations(frame, worn, tracks, self._zones)
        return self._build_tracked_frame(frame, tracks), events + self._end_gap()

    def finish(self) -> list[Event]:
        """The stream ends for good: a gap that is still open ends with the newest frame."""
        return [] if self._gap is None else [self._build_gap_event(self._gap)]

    def _to_moment(self, frame: FrameDetections) -> FrameMoment:
        return FrameMoment(self._clock_s, frame.captured_at_ns / 1e9, frame.epoch, frame.sequence)

    def _advance_clock(self, frame: FrameDetections, reshaped: bool) -> list[Event]:
        """Move the position and the clock to `frame`; after a pause that was too long, a gap begins.

        `reshaped`: pictures have another shape from this frame on, so that paths before and after are not comparable.
        """
        first = self._captured_at_ns == 0
        elapsed_s = (frame.captured_at_ns - self._captured_at_ns) / 1e9
        usual_s = max(self._frame_s, self._tracker.interval_s)
        paused = not first and elapsed_s > max(self._settings.gap_s, MIN_GAP_FRAMES * usual_s)
        cause = "epoch changed" if self._epoch and frame.epoch != self._epoch else "frames missing"
        last_s = self._clock_s
        # Where the wall clock was set back (or two frames bear one time): go on as if a frame's time had passed.
        self._clock_s += self._frame_s if first or elapsed_s <= 0 else elapsed_s
        events: list[Event] = []
        if self._state_lost:
            events = self._begin_gap(frame, "state lost", last_s, usual_s)
        elif paused or reshaped:
            events = self._begin_gap(frame, cause if paused else "picture changed", last_s, usual_s)
        self._epoch, self._sequence, self._captured_at_ns = frame.epoch, frame.sequence, frame.captured_at_ns
        return events

    def _begin_gap(self, frame: FrameDetections, cause: str, last_s: float, usual_s: float) -> list[Event]:
        """Break all paths before `frame`; `last_s` is the clock of the frame before it.

        The gap begins with the last frame before the pause, or with the first crossing that is given up. It is said
        when it is over; should the frames pause again before that, it ends there and the next one begins.
        """
        events: list[Event] = [] if self._gap is None else [self._build_gap_event(self._gap)]
        settled_s = self._clock_s + self._settle_s
        settled, since_s = self._counter.break_paths(self._to_moment(frame), settled_s)
        start = (self._captured_at_ns or frame.captured_at_ns) / 1e9
        if self._state_lost:
            # What was under way is not known any more.
            self._state_lost = False
            start -= MAX_UNDECIDED_S
        elif since_s <= last_s:
            # A crossing bears the time of the first frame beyond the line: it was up to a frame's time earlier.
            start -= last_s - since_s + usual_s + FILTER_LAG_S
        gap_id = f"{self.camera}:gap:{frame.epoch}:{frame.sequence}"
        self._gap = OpenGap(gap_id, start, cause, settled_s, self._clock_s + MAX_UNDECIDED_S)
        return events + settled

    def _end_gap(self) -> list[Event]:
        """The open gap's event, when nothing can be missed because of it any more."""
        gap = self._gap
        if gap is None or self._clock_s < gap.settled_s:
            return []
        if self._clock_s < gap.latest_s and self._counter.has_undecided():
            return []
        self._counter.settle_undecided()
        self._gap = None
        return [self._build_gap_event(gap)]

    def _build_gap_event(self, gap: OpenGap) -> CameraGap:
        end = self._captured_at_ns / 1e9
        return CameraGap(id=gap.id, camera=self.camera, ts=end, start=min(gap.start, end), end=end, cause=gap.cause)

    def _build_tracked_frame(self, frame: FrameDetections, tracks: Tracks) -> TrackedFrame:
        shown = tracks.confirmed
        return TrackedFrame(
            camera=self.camera,
            epoch=frame.epoch,
            sequence=frame.sequence,
            captured_at_ns=frame.captured_at_ns,
            boxes=tracks.boxes[shown].tobytes(),
            tracks=tracks.ids[shown].tobytes(),
            classes=tracks.classes[shown].tobytes(),
            occupancy=self.get_occupancy(),
            queues=self.get_queues(),
        )

    def dump_state(self) -> bytes:
        """Everything that decides the future."""
        return msgspec.msgpack.encode(
            _PipelineState(
                VERSION,
                self._epoch,
                self._sequence,
                self._captured_at_ns,
                self._clock_s,
                self._aspect,
                self._tracker.dump_state(),
                self._counter.get_state(),
                self._gap,
            )
        )

    def restore(self, state: bytes) -> None:
        """Continue where `state()` was taken; lines and zones that were changed since then begin anew.

        Raises:
            StateError: the state is of another version, or damaged.
        """
        try:
            version = msgspec.msgpack.decode(state, type=list[Any])[0]
            if version != VERSION:
                raise StateError(f"state of version {version!r}; this is version {VERSION}")
            read = msgspec.msgpack.decode(state, type=_PipelineState)
            self._tracker.restore(read.tracker)
        except (msgspec.MsgspecError, IndexError, ValueError) as error:
            raise StateError(str(error)) from None
        self._epoch, self._sequence, self._captured_at_ns = read.epoch, read.sequence, read.captured_at_ns
        self._clock_s, self._aspect, self._gap = read.clock_s, read.aspect, read.gap
        self._counter.restore(read.counting)
        if read.aspect:
            self._counter.set_aspect(read.aspect)


def _decode_columns(frame: FrameDetections) -> tuple[Any, Any, Any]:
    """Boxes (n, 4) float32, scores (n,) float32 and classes (n,) uint8 of a message."""
    count = len(frame.classes)
    if len(frame.boxes) != 16 * count or len(frame.scores) != 4 * count:
        raise MalformedFrameError(
            f"camera {frame.camera}, frame {frame.epoch}-{frame.sequence}: {len(frame.boxes)} bytes of boxes and "
            f"{len(frame.scores)} of scores do not fit {count} classes"
        )
    boxes = np.frombuffer(frame.boxes, "<f4").reshape(count, 4)
    scores = np.frombuffer(frame.scores, "<f4")
    classes = np.frombuffer(frame.classes, np.uint8)
    if count and not (np.isfinite(boxes).all() and np.isfinite(scores).all() and classes.max() < len(CLASSES)):
        raise MalformedFrameError(
            f"camera {frame.camera}, frame {frame.epoch}-{frame.sequence}: a box or score is not a finite number, or a "
            f"class is above {len(CLASSES) - 1}"
        )
    return boxes, scores, classes


def _build_samples(tracks: Tracks, aspect: float) -> list[Sample]:
    return [
        Sample(track, (x1 + x2) / 2 * aspect, y2, (y1 + y2) / 2, y2 - y1, class_id, confirmed)
        for track, (x1, y1, x2, y2), class_id, confirmed in zip(
            tracks.ids.tolist(), tracks.boxes.tolist(), tracks.classes.tolist(), tracks.confirmed.tolist()
        )
    ]
