"""Today's counts, decoded stream entries and present occupancy of zones. Time is a parameter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from crowdperf.messaging import codec
from crowdperf.messaging.consumer import EntryFields, StreamRow
from crowdperf.messaging.schema import AnyEvent, TailgatingSuspected, TrackedFrame
from crowdperf.messaging.streams import CONNECTIONS, EVENTS, TRACKS
from crowdperf.settings.areas import Area
from crowdperf.settings.camera import Camera
from crowdperf.storage.counts import CrossingRecord
from crowdperf.web.parameters import Span, format_rfc3339
from crowdperf.web.schemas import EventReply, ZoneOccupancy, to_reply

MAX_EVENT_IDS = 100_000
"""Event ids kept to recognise a repeated event."""
MAX_COUNT_KEYS = 100_000
"""Different keys within a day. Hundreds of cameras with several lines have a tenth of it."""


class CountKey(NamedTuple):
    """What one count is about."""

    camera: str
    line: str
    class_name: str
    direction: str


class TodayCounts:
    """Count the crossings of one day by camera, line, class and direction; a repeated event counts once."""

    def __init__(self, day: Span) -> None:
        self.day = day
        self.counts: dict[CountKey, int] = {}
        self._event_ids: OrderedDict[str, None] = OrderedDict()
        self._changed_keys: set[CountKey] = set()

    def add(self, event_id: str, ts: float, key: CountKey) -> bool:
        """Count one crossing.

        Args:
            event_id: Id of the event.
            ts: Unix seconds.
            key: What the count is about.

        Returns:
            False for a crossing of another day, or one that was counted already.
        """
        if not self.day.start <= ts < self.day.end or event_id in self._event_ids:
            return False
        if key not in self.counts and len(self.counts) >= MAX_COUNT_KEYS:
            return False
        self._event_ids[event_id] = None
        if len(self._event_ids) > MAX_EVENT_IDS:
            self._event_ids.popitem(last=False)
        self.counts[key] = self.counts.get(key, 0) + 1
        self._changed_keys.add(key)
        return True

    def take_changes(self) -> dict[CountKey, int]:
        """Return the counts that changed since the last call."""
        changed = {key: self.counts[key] for key in self._changed_keys}
        self._changed_keys.clear()
        return changed


EVENT_TYPES = tuple(kind.__name__ for kind in get_args(AnyEvent))


def decode_event(fields: EntryFields) -> AnyEvent | None:
    """Decode the event of an entry; None for an unreadable entry, which its consumers report.

    A redriven dead letter (`_for`) is None as well: the stream holds the event already.
    """
    event: AnyEvent | None = codec.decode_or_none(EVENTS, fields) if codec.is_addressed_to(fields, "") else None
    return event


def find_cameras(event: AnyEvent, areas: Sequence[Area]) -> frozenset[str]:
    """Find the cameras that an event reveals: its own, those of its area, and those of its evidence.

    An event of no camera, or of a removed area, may concern all cameras: `""` stands for them.
    """
    cameras = {event.camera}
    area_id: str = getattr(event, "area", "")
    if area_id:
        area = next((row for row in areas if row.id == area_id), None)
        cameras |= area.list_cameras() if area else {""}
    if isinstance(event, TailgatingSuspected):
        # Ids of crossings begin with their camera.
        cameras |= {crossing.partition(".")[0] for crossing in event.evidence.split()}
    return frozenset(cameras)


def decode_connections(rows: list[StreamRow]) -> list[EventReply]:
    """Decode the changes of a camera's connection, each once, in their order."""
    events = (codec.decode_or_none(CONNECTIONS, fields) for _, fields in rows)
    return list({event.id: to_event_reply(event) for event in events if event is not None}.values())


def decode_frame(fields: EntryFields) -> Any:
    """Decode the TrackedFrame of an entry; None for an unreadable one."""
    return codec.decode_or_none(TRACKS, fields)


def to_event_reply(event: AnyEvent) -> EventReply:
    """Convert an event to its API form: fields are matched by name."""
    return to_reply(EventReply, event, type=type(event).__name__, time=format_rfc3339(event.ts))


def crossing_to_event_reply(crossing: CrossingRecord) -> EventReply:
    """Convert a crossing of the history to the event that it was."""
    return to_reply(EventReply, crossing, type="LineCrossed", time=format_rfc3339(crossing.ts))


MAX_FRAME_AGE_S = 5.0
"""An older frame does not show the present."""


def is_fresh(frame: TrackedFrame | None, now: float) -> bool:
    """Check whether the frame shows the present; `now` in Unix seconds."""
    return frame is not None and now - frame.captured_at_ns / 1e9 <= MAX_FRAME_AGE_S


def compute_occupancy(
    cameras: tuple[Camera, ...], frames: Mapping[str, TrackedFrame], now: float
) -> list[ZoneOccupancy]:
    """List every zone of every enabled camera, in the order of the configuration.

    Args:
        cameras: Configured cameras.
        frames: Camera -> its newest tracked frame.
        now: Unix seconds.

    Returns:
        One row per zone; the occupancy of a camera without a fresh frame is None.
    """
    rows = []
    for camera in cameras:
        frame = frames.get(camera.id)
        current = frame if is_fresh(frame, now) else None
        for zone in camera.zones if camera.enabled else ():
            inside = current.occupancy.get(zone.id, 0) if current else None
            rows.append(
                ZoneOccupancy(
                    camera=camera.id,
                    zone=zone.id,
                    name=zone.name or zone.id,
                    limit=zone.limit,
                    occupancy=inside,
                    over_limit=bool(inside is not None and zone.limit and inside > zone.limit),
                    time=format_rfc3339(current.captured_at_ns / 1e9) if current else None,
                )
            )
    return rows
