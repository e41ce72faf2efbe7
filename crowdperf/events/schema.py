"""Every message that crosses a process boundary. Nothing but msgspec is imported here.

Rules, tested with stored golden bytes: fields are added at the end with a default, never reordered, never retyped.
Business events travel as maps whose values are readable in redis-cli; `FrameDetections` and `TrackedFrame` carry packed
columns, which is about 14 times cheaper.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Direction = Literal["in", "out"]


class FrameDetections(Struct, frozen=True, array_like=True):
    """What the model saw in one analysed frame."""

    camera: str
    epoch: int
    """Ring epoch; (epoch, sequence) names a frame for ever."""
    sequence: int
    captured_at_ns: int
    """Wall clock when the frame's first byte arrived, nanoseconds since 1970."""
    boxes: bytes
    """float32 little-endian, shape (n, 4), x1 y1 x2 y2 normalised to the SOURCE picture."""
    scores: bytes
    """float32 little-endian, shape (n,)."""
    classes: bytes
    """uint8, shape (n,): index into `settings.base.CLASSES`."""
    source_width: int = 0
    source_height: int = 0


class TrackedFrame(Struct, frozen=True, array_like=True):
    """The live boxes of one frame, for people's eyes only: never counted from."""

    camera: str
    epoch: int
    sequence: int
    captured_at_ns: int
    boxes: bytes
    """float32 little-endian, shape (n, 4), as in FrameDetections."""
    tracks: bytes
    """uint32 little-endian, shape (n,)."""
    classes: bytes
    """uint8, shape (n,)."""
    occupancy: dict[str, int] = {}
    """Zone id -> tracks inside now."""


class Event(Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """Base of every business event. `id` is deterministic: a redelivered or replayed event has the same one."""

    id: str
    camera: str
    ts: float
    """Unix seconds, UTC."""


class LineCrossed(Event, frozen=True, kw_only=True):
    """A confirmed track changed to the other side of a line, at the time of its first sample there."""

    line: str
    direction: Direction
    klass: str
    track: int
    epoch: int
    sequence: int


class ZoneChanged(Event, frozen=True, kw_only=True):
    """A track settled inside or outside a zone; `occupancy` is the zone's count after it."""

    zone: str
    change: Direction
    klass: str
    track: int
    occupancy: int
    epoch: int
    sequence: int


class CameraGap(Event, frozen=True, kw_only=True):
    """Between `start` and `end` (Unix seconds) this camera's crossings may be missing; `ts` equals `end`."""

    start: float
    end: float
    cause: str


class CameraChanged(Event, frozen=True, kw_only=True):
    """The camera's connection changed its state."""

    state: Literal["connecting", "live", "stalled", "backing_off", "stopped", "misconfigured"]
    detail: str = ""


AnyEvent = LineCrossed | ZoneChanged | CameraGap | CameraChanged
