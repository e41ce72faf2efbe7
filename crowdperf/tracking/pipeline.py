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

from crowdperf.counting.camera import CameraCounter, CountingState
from crowdperf.counting.density import DensityMinute
from crowdperf.counting.frame import Moment, Sample
from crowdperf.events.schema import CameraGap, Event, FrameDetections, QueueNow, TrackedFrame
from crowdperf.settings.base import CLASSES
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.ppe import MalformedPpeError, findings, observed
from crowdperf.tracking.tracker import CONFIRM_HITS, PersonTracker, Tracks

VERSION = 2
DEFAULT_ASPECT = 16 / 9
GAP_FRAMES = 3.5
"""A pause of fewer frames is no gap, however few come in a second."""


class StateError(ValueError):
    """A stored state is of another version, or damaged."""


class MalformedFrameError(ValueError):
    """A message whose columns do not belong together."""


class _State(Struct, array_like=True):
    version: int
    epoch: int
    sequence: int
    captured_at_ns: int
    clock_s: float
    aspect: float
    tracker: bytes
    counting: CountingState


class CameraPipeline:
    """Tracker, lines and zones of one camera."""

    def __init__(
        self, camera: str, settings: Tracking, lines: Sequence[Line], zones: Sequence[Zone], target_fps: float
    ) -> None:
        self.camera = camera
        self._settings = settings
        self._settle_s = CONFIRM_HITS / target_fps
        self._frame_s = 1 / target_fps
        self._tracker = PersonTracker(settings)
        self._zones = tuple(zones)
        self._counter = CameraCounter(camera, tuple(lines), tuple(zones), settings.lost_s)
        self._epoch = 0
        self._sequence = 0
        self._captured_at_ns = 0
        self._clock_s = 0.0
        self._aspect = 0.0

    def __len__(self) -> int:
        """Tracks that are remembered, unconfirmed and lost ones included."""
        return len(self._tracker)

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, sequence) of the newest frame taken, (0, 0) before the first."""
        return self._epoch, self._sequence

    def occupancy(self) -> dict[str, int]:
        """Zone id -> tracks inside."""
        return self._counter.occupancy()

    def queues(self) -> dict[str, QueueNow]:
        """Id of each zone of kind `queue` -> its length and waiting times."""
        return self._counter.queues()

    def take_density(self) -> list[DensityMinute]:
        """Minutes of the density grid that have ended, to be stored together with the next `state`."""
        return self._counter.take_density()

    def rewind(self) -> None:
        """Accept frames of a lower epoch from now on: the machine's clock went back and the ring was made anew."""
        self._epoch = self._sequence = 0

    def step(self, frame: FrameDetections) -> tuple[TrackedFrame | None, list[Event]]:
        """Take one frame. A frame at or before the newest one is a redelivery: it gives (None, []).

        Raises:
            MalformedFrameError: the columns have different lengths, or hold what no model reports.
        """
        if (frame.epoch, frame.sequence) <= (self._epoch, self._sequence):
            return None, []
        boxes, scores, classes = _columns(frame)
        try:
            worn = findings(frame)
        except MalformedPpeError as error:
            raise MalformedFrameError(str(error)) from None
        events = self._pass_time(frame)
        aspect = frame.source_width / frame.source_height if frame.source_height else DEFAULT_ASPECT
        if aspect != self._aspect:
            self._counter.set_aspect(aspect)
            if self._aspect:
                self._counter.break_paths()
            self._aspect = aspect
        tracks = self._tracker.update(self._clock_s, boxes, scores, classes, aspect)
        moment = Moment(self._clock_s, frame.captured_at_ns / 1e9, frame.epoch, frame.sequence)
        events += self._counter.update(moment, _samples(tracks, aspect), tracks.ended.tolist())
        events += observed(frame, worn, tracks, self._zones)
        return self._tracked(frame, tracks), events

    def _pass_time(self, frame: FrameDetections) -> list[Event]:
        """Move the position and the clock to `frame`; a pause that was too long is an event, and breaks all paths."""
        first = self._captured_at_ns == 0
        elapsed_s = (frame.captured_at_ns - self._captured_at_ns) / 1e9
        cause = "epoch changed" if self._epoch and frame.epoch != self._epoch else "frames missing"
        events: list[Event] = []
        if first or elapsed_s <= 0:
            # The wall clock was set back (or two frames bear one time): go on as if a frame's time had passed.
            self._clock_s += self._frame_s
        else:
            self._clock_s += elapsed_s
        usual_s = max(self._frame_s, self._tracker.interval_s)
        if not first and elapsed_s > max(self._settings.gap_s, GAP_FRAMES * usual_s):
            start, end = self._captured_at_ns / 1e9, frame.captured_at_ns / 1e9 + self._settle_s
            gap_id = f"{self.camera}:gap:{frame.epoch}:{frame.sequence}"
            events.append(CameraGap(id=gap_id, camera=self.camera, ts=end, start=start, end=end, cause=cause))
            self._counter.break_paths()
        self._epoch, self._sequence, self._captured_at_ns = frame.epoch, frame.sequence, frame.captured_at_ns
        return events

    def _tracked(self, frame: FrameDetections, tracks: Tracks) -> TrackedFrame:
        shown = tracks.confirmed
        return TrackedFrame(
            camera=self.camera,
            epoch=frame.epoch,
            sequence=frame.sequence,
            captured_at_ns=frame.captured_at_ns,
            boxes=tracks.boxes[shown].tobytes(),
            tracks=tracks.ids[shown].tobytes(),
            classes=tracks.classes[shown].tobytes(),
            occupancy=self.occupancy(),
            queues=self.queues(),
        )

    def state(self) -> bytes:
        """Everything that decides the future."""
        return msgspec.msgpack.encode(
            _State(
                VERSION,
                self._epoch,
                self._sequence,
                self._captured_at_ns,
                self._clock_s,
                self._aspect,
                self._tracker.state(),
                self._counter.state(),
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
            read = msgspec.msgpack.decode(state, type=_State)
            self._tracker.restore(read.tracker)
        except (msgspec.MsgspecError, IndexError, ValueError) as error:
            raise StateError(str(error)) from None
        self._epoch, self._sequence, self._captured_at_ns = read.epoch, read.sequence, read.captured_at_ns
        self._clock_s, self._aspect = read.clock_s, read.aspect
        self._counter.restore(read.counting)
        if read.aspect:
            self._counter.set_aspect(read.aspect)


def _columns(frame: FrameDetections) -> tuple[Any, Any, Any]:
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


def _samples(tracks: Tracks, aspect: float) -> list[Sample]:
    return [
        Sample(track, (x1 + x2) / 2 * aspect, y2, (y1 + y2) / 2, y2 - y1, klass, confirmed)
        for track, (x1, y1, x2, y2), klass, confirmed in zip(
            tracks.ids.tolist(), tracks.boxes.tolist(), tracks.classes.tolist(), tracks.confirmed.tolist()
        )
    ]
