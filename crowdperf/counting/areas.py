"""Occupancy of an area with several doors: what went in since the last reset, less what went out.

* It is never negative, and never below what the area's zones see at this moment: whoever is seen is there.
* Each crossing may be wrong with a known small probability. The errors add up like a random walk, so the uncertainty
  grows with the root of the crossings; a reset, at an hour when nobody is there, sets it back to nothing.
* A reset takes place at its hour in the order of the events, so that one which was slept through (the process was away)
  leaves the same numbers behind.

Pure: no I/O and no clock.
"""

from __future__ import annotations

import hashlib
import math
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from msgspec import Struct, field

from crowdperf.counting.threshold import Threshold, ThresholdState
from crowdperf.messaging.schema import Alert, AreaChanged, Event, LineCrossed, ZoneChanged, ZoneMinute
from crowdperf.settings.areas import Area

CONFIDENCE_Z = 1.96
"""Standard deviations of a 95 % interval."""
MAX_READING_AGE_S = 150.0
"""A zone that somebody is in speaks once a minute; what it said earlier than this is not what it sees now."""
RESET_GRACE_S = 30.0
"""Events of the time before a reset may still be on their way for so long."""
MAX_RECENT_EVENTS = 256
"""Events that are known again when they are delivered twice."""


class ZoneReading(Struct, array_like=True):
    """The newest that a zone said."""

    occupancy: int
    ts: float


class AreaCounterState(Struct, array_like=True):
    """An area in serialised form."""

    occupancy: int = 0
    entries: int = 0
    exits: int = 0
    since: float = 0.0
    """The last reset, Unix seconds; 0 before anything was heard."""
    next_reset: float = math.inf
    zones: dict[str, ZoneReading] = {}
    limit: ThresholdState = field(default_factory=ThresholdState)
    recent: list[int] = []
    clock: float = 0.0
    """The latest moment that was heard of, Unix seconds."""
    last_door: str = ""
    """`<camera>/<line>` of the newest crossing."""
    last_entered: bool = False
    last_at: float = 0.0


class AreaCounter:
    """One area."""

    def __init__(self, area: Area, timezone: str) -> None:
        self.area = area
        self._zone = ZoneInfo(timezone)
        self._doors = {(door.camera, door.line): door.enters for door in area.doors}
        self._zones = {(zone.camera, zone.zone) for zone in area.zones}
        self._threshold = None if area.limit is None else Threshold(area.limit, area.limit_clear, area.limit_s)
        self.state = AreaCounterState(zones={}, recent=[])

    def restore(self, state: AreaCounterState) -> None:
        """Continue there; zones that the area no longer has are forgotten, and resets reckoned anew."""
        known = {f"{camera}/{zone}" for camera, zone in self._zones}
        state.zones = {name: seen for name, seen in state.zones.items() if name in known}
        # The hour may have been changed since; it is reckoned anew from the last reset that took place.
        state.next_reset = math.inf
        self.state = state

    def is_relevant(self, event: Event) -> bool:
        """Whether the event is about a door or a zone of this area."""
        if isinstance(event, LineCrossed):
            return (event.camera, event.line) in self._doors and event.class_name in self.area.classes
        return isinstance(event, (ZoneChanged, ZoneMinute)) and (event.camera, event.zone) in self._zones

    @property
    def uncertainty(self) -> float:
        """Half the width of the 95 % interval of the occupancy."""
        crossings = self.state.entries + self.state.exits
        return round(CONFIDENCE_Z * math.sqrt(crossings * self.area.crossing_error), 1)

    def update(self, event: Event) -> list[Event]:
        """Take one event; returns what follows from it. An event that was taken before changes nothing."""
        if not self.is_relevant(event):
            return []
        name = int.from_bytes(hashlib.blake2b(event.id.encode(), digest_size=8).digest(), "big")
        if name in self.state.recent:
            return []
        self.state.recent.append(name)
        del self.state.recent[:-MAX_RECENT_EVENTS]
        self._start_clock(event.ts)
        # A minute's event bears the time of its beginning, and tells of its end.
        seen_at = event.ts + 60 if isinstance(event, ZoneMinute) else event.ts
        events = self._reset_before(seen_at)
        self.state.clock = max(self.state.clock, seen_at)
        if isinstance(event, LineCrossed):
            return events + self._count_crossing(event)
        if isinstance(event, (ZoneChanged, ZoneMinute)):
            return events + self._update_zone(event, seen_at)
        return events

    def tick(self, now: float) -> list[Event]:
        """Let time pass; `now` in Unix seconds. Resets that are due take place, limits are looked at."""
        self._start_clock(now)
        events = self._reset_before(now - RESET_GRACE_S)
        self.state.clock = max(self.state.clock, now)
        return events + self._check_limit("", self.state.clock)

    def _count_crossing(self, event: LineCrossed) -> list[Event]:
        state = self.state
        if event.ts < state.since:
            return []
        entered = event.direction == self._doors[event.camera, event.line]
        if event.ts >= state.last_at:
            state.last_door, state.last_entered, state.last_at = f"{event.camera}/{event.line}", entered, event.ts
        if entered:
            state.entries += 1
            state.occupancy += 1
        else:
            state.exits += 1
            state.occupancy -= 1
        state.occupancy = max(0, state.occupancy, self._count_visible())
        changed = self._build_event(event.id, event.camera, event.ts, "crossing")
        return [changed, *self._check_limit(event.camera, event.ts)]

    def _update_zone(self, event: ZoneChanged | ZoneMinute, seen_at: float) -> list[Event]:
        state = self.state
        key = f"{event.camera}/{event.zone}"
        before = state.zones.get(key)
        if before is not None and before.ts > seen_at:
            return []
        state.zones[key] = ZoneReading(event.occupancy, seen_at)
        if not self._doors:
            occupancy = self._count_visible()
        else:
            occupancy = max(state.occupancy, self._count_visible())
        if occupancy == state.occupancy:
            return self._check_limit(event.camera, seen_at)
        state.occupancy = occupancy
        return [self._build_event(event.id, event.camera, seen_at, "zone"), *self._check_limit(event.camera, seen_at)]

    def _count_visible(self) -> int:
        """How many the zones see now."""
        oldest = self.state.clock - MAX_READING_AGE_S
        return sum(seen.occupancy for seen in self.state.zones.values() if seen.ts >= oldest)

    def _start_clock(self, ts: float) -> None:
        if not self.state.since:
            self.state.since = ts
        if self.state.next_reset == math.inf and self.area.reset_at:
            self.state.next_reset = find_next_reset(self.state.since, self._zone, self.area.reset_at)

    def _reset_before(self, ts: float) -> list[Event]:
        """The last of the resets that were due at or before `ts`."""
        state = self.state
        due = None
        while state.next_reset <= ts:
            due = state.next_reset
            state.next_reset = find_next_reset(due, self._zone, self.area.reset_at)
        if due is None:
            return []
        state.since, state.entries, state.exits = due, 0, 0
        state.clock = max(state.clock, due)
        state.occupancy = self._count_visible()
        changed = self._build_event(f"reset:{int(due)}", "", due, "reset")
        return [changed, *self._check_limit("", due)]

    def _build_event(self, cause_id: str, camera: str, ts: float, cause: str) -> AreaChanged:
        return AreaChanged(
            id=f"area:{self.area.id}:{cause_id}",
            camera=camera,
            ts=ts,
            area=self.area.id,
            occupancy=self.state.occupancy,
            uncertainty=self.uncertainty,
            entries=self.state.entries,
            exits=self.state.exits,
            cause=cause,  # type: ignore[arg-type]
        )

    def _check_limit(self, camera: str, ts: float) -> list[Event]:
        limit = self._threshold
        if limit is None:
            return []
        limit.state = self.state.limit
        change = limit.update(self.state.occupancy, self.state.clock)
        if change is None:
            return []
        own = f"area:{self.area.id}:occupancy_{change}:{round(ts * 1000)}"
        if change == "opened":
            limit.open(own, ts, self.state.occupancy)
        alert = Alert(
            id=own,
            camera=camera,
            ts=ts,
            rule="occupancy",
            state=change,
            alert=limit.state.alert,
            area=self.area.id,
            value=max(limit.state.peak, self.state.occupancy),
            limit=limit.above,
            opened_at=limit.state.opened_at,
        )
        if change == "closed":
            limit.close()
        return [alert]


def find_next_reset(after: float, zone: ZoneInfo, at: str) -> float:
    """The first moment after `after` (Unix seconds) at which the clocks of `zone` show `at` ("HH:MM").

    On the day on which the clocks skip that time it is the moment that would have borne it; on the day that has it
    twice, the first.
    """
    hour, minute = (int(part) for part in at.split(":"))
    day = datetime.fromtimestamp(after, zone).date()
    while True:
        moment = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).timestamp()
        if moment > after:
            return moment
        day += timedelta(days=1)
