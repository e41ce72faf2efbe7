"""Turn one camera's detections into events: tracker, counters and gap detection. Pure and deterministic.

The same frames give the same events with the same ids, whether or not the state was stored and restored in between. So
a replay after a crash is harmless.
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
from crowdperf.messaging.schema import Event, FrameDetections, QueueNow, TrackedFrame
from crowdperf.settings.base import CLASSES
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.gaps import GapDetector, OpenGap
from crowdperf.tracking.ppe_observations import MalformedFrameError, build_observations, parse_findings
from crowdperf.tracking.tracker import PersonTracker, Tracks

VERSION = 2
DEFAULT_ASPECT = 16 / 9


class StateError(ValueError):
    """A stored state is damaged or of another version."""


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
    """Tracker, lines and zones of one camera.

    Args:
        camera: id of the camera.
        settings: the tracking settings.
        lines: counting lines of the camera.
        zones: zones of the camera.
        target_fps: analysed frames per second.
    """

    def __init__(
        self, camera: str, settings: Tracking, lines: Sequence[Line], zones: Sequence[Zone], target_fps: float
    ) -> None:
        self.camera = camera
        self._frame_s = 1 / target_fps
        self._tracker = PersonTracker(settings)
        self._zones = tuple(zones)
        self._counter = CameraCounter(camera, tuple(lines), tuple(zones), settings.lost_s)
        self._gaps = GapDetector(camera, settings.gap_s, target_fps)
        self._epoch = 0
        self._sequence = 0
        self._captured_at_ns = 0
        self._clock_s = 0.0
        self._aspect = 0.0

    def __len__(self) -> int:
        """Tracks in memory, including unconfirmed and lost ones."""
        return len(self._tracker)

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, sequence) of the newest frame, (0, 0) before the first."""
        return self._epoch, self._sequence

    def get_occupancy(self) -> dict[str, int]:
        """Return zone id -> tracks inside."""
        return self._counter.get_occupancy()

    def get_queues(self) -> dict[str, QueueNow]:
        """Return the id of each zone of kind `queue` -> its length and waiting times."""
        return self._counter.get_queues()

    def take_density(self) -> list[DensityMinute]:
        """Return the finished minutes of the density grid, to be stored together with the next state."""
        return self._counter.take_density()

    def rewind(self) -> None:
        """Accept frames of a lower epoch from now on: the machine's clock went back."""
        self._epoch = self._sequence = 0

    def resume(self, epoch: int, sequence: int, captured_at_ns: int) -> None:
        """Go on after this frame without its state; the next frame begins a gap.

        Args:
            epoch: ring epoch of the frame.
            sequence: sequence of the frame.
            captured_at_ns: time of its capture, nanoseconds since 1970, 0 where unknown.
        """
        self._epoch, self._sequence, self._captured_at_ns = epoch, sequence, captured_at_ns
        self._gaps.state_lost = True

    def step(self, frame: FrameDetections) -> tuple[TrackedFrame | None, list[Event]]:
        """Process one frame; a frame at or before the newest one is a redelivery and gives (None, []).

        Raises:
            MalformedFrameError: the columns have different lengths, or impossible values.
        """
        if (frame.epoch, frame.sequence) <= (self._epoch, self._sequence):
            return None, []
        boxes, scores, classes = _decode_columns(frame)
        findings = parse_findings(frame)
        aspect = frame.source_width / frame.source_height if frame.source_height else DEFAULT_ASPECT
        events = self._advance_clock(frame, reshaped=self._aspect not in (0.0, aspect))
        if aspect != self._aspect:
            self._counter.set_aspect(aspect)
            self._aspect = aspect
        tracks = self._tracker.update(self._clock_s, boxes, scores, classes, aspect)
        moment = self._to_moment()
        events += self._counter.update(moment, _build_samples(tracks, aspect), tracks.ended.tolist())
        events += build_observations(frame, findings, tracks, self._zones)
        return self._build_tracked_frame(frame, tracks), events + self._gaps.end_if_settled(moment, self._counter)

    def finish(self) -> list[Event]:
        """End the stream for good: a gap that is still open ends with the newest frame."""
        return self._gaps.finish(self._captured_at_ns / 1e9)

    def _to_moment(self) -> FrameMoment:
        """Return the moment of the newest frame."""
        return FrameMoment(self._clock_s, self._captured_at_ns / 1e9, self._epoch, self._sequence)

    def _advance_clock(self, frame: FrameDetections, reshaped: bool) -> list[Event]:
        """Move position and clock to `frame`; after a pause that was too long, or a new shape, a gap begins."""
        first = self._captured_at_ns == 0
        elapsed_s = 0.0 if first else (frame.captured_at_ns - self._captured_at_ns) / 1e9
        frame_s = max(self._frame_s, self._tracker.interval_s)
        epoch_changed = bool(self._epoch) and frame.epoch != self._epoch
        cause = self._gaps.find_cause(elapsed_s, frame_s, epoch_changed, reshaped)
        before = FrameMoment(
            self._clock_s, (self._captured_at_ns or frame.captured_at_ns) / 1e9, self._epoch, self._sequence
        )
        # Where the wall clock was set back (or two frames have one time): go on as if a frame's time had passed.
        self._clock_s += elapsed_s if elapsed_s > 0 else self._frame_s
        self._epoch, self._sequence, self._captured_at_ns = frame.epoch, frame.sequence, frame.captured_at_ns
        return self._gaps.begin(cause, before, self._to_moment(), frame_s, self._counter) if cause else []

    def _build_tracked_frame(self, frame: FrameDetections, tracks: Tracks) -> TrackedFrame:
        confirmed = tracks.confirmed
        return TrackedFrame(
            camera=self.camera,
            epoch=frame.epoch,
            sequence=frame.sequence,
            captured_at_ns=frame.captured_at_ns,
            boxes=tracks.boxes[confirmed].tobytes(),
            tracks=tracks.ids[confirmed].tobytes(),
            classes=tracks.classes[confirmed].tobytes(),
            occupancy=self.get_occupancy(),
            queues=self.get_queues(),
        )

    def dump_state(self) -> bytes:
        """Serialise everything that decides the future."""
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
                self._gaps.open_gap,
            )
        )

    def restore(self, state: bytes) -> None:
        """Continue from a result of `dump_state`; lines and zones that were changed since start empty.

        Raises:
            StateError: the state is damaged or of another version.
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
        self._clock_s, self._aspect, self._gaps.open_gap = read.clock_s, read.aspect, read.gap
        self._counter.restore(read.counting)
        if read.aspect:
            self._counter.set_aspect(read.aspect)


def _decode_columns(frame: FrameDetections) -> tuple[Any, Any, Any]:
    """Decode boxes (n, 4) float32, scores (n,) float32 and classes (n,) uint8 of a message."""
    count = len(frame.classes)
    if len(frame.boxes) != 16 * count or len(frame.scores) != 4 * count:
        sizes = f"{len(frame.boxes)} bytes of boxes and {len(frame.scores)} of scores"
        raise MalformedFrameError(frame, f"{sizes} do not fit {count} classes")
    boxes = np.frombuffer(frame.boxes, "<f4").reshape(count, 4)
    scores = np.frombuffer(frame.scores, "<f4")
    classes = np.frombuffer(frame.classes, np.uint8)
    if count and not (np.isfinite(boxes).all() and np.isfinite(scores).all() and classes.max() < len(CLASSES)):
        raise MalformedFrameError(
            frame, f"a box or score is not a finite number, or a class is above {len(CLASSES) - 1}"
        )
    return boxes, scores, classes


def _build_samples(tracks: Tracks, aspect: float) -> list[Sample]:
    return [
        Sample(track, (x1 + x2) / 2 * aspect, y2, (y1 + y2) / 2, y2 - y1, class_id, confirmed)
        for track, (x1, y1, x2, y2), class_id, confirmed in zip(
            tracks.ids.tolist(), tracks.boxes.tolist(), tracks.classes.tolist(), tracks.confirmed.tolist()
        )
    ]
