"""Occupancy of an area with several doors: entries since the last reset, minus exits.

* It is never negative and never below what the area's zones see at the moment.
* Each crossing is wrong with a small known probability. The errors add up like a random walk, so the uncertainty grows
  with the root of the number of crossings. A reset, at an hour when the area is empty, clears it.
* A reset takes effect at its hour in the order of the events. After a downtime the numbers are therefore the same.

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
"""An occupied zone reports once a minute; an older reading is not used."""
RESET_GRACE_S = 30.0
"""Events from before a reset may arrive this late."""
MAX_RECENT_EVENTS = 256
"""Number of remembered events, to detect redeliveries."""


class ZoneReading(Struct, array_like=True):
    """The newest reading of a zone."""

    occupancy: int
    ts: float


class AreaCounterState(Struct, array_like=True):
    """The serialised state of an area."""

    occupancy: int = 0
    entries: int = 0
    exits: int = 0
    since: float = 0.0
    """Unix seconds of the last reset; 0 before the first event."""
    next_reset: float = math.inf
    zones: dict[str, ZoneReading] = {}
    limit: ThresholdState = field(default_factory=ThresholdState)
    recent: list[int] = []
    clock: float = 0.0
    """Unix seconds of the newest event or tick."""
    last_door: str = ""
    """`<camera>/<line>` of the newest crossing."""
    last_entered: bool = False
    last_at: float = 0.0


class AreaCounter:
    """The occupancy counter of one area."""

    def __init__(self, area: Area, timezone: str) -> None:
        self.area = area
        self._zone = ZoneInfo(timezone)
        self._doors = {(door.camera, door.line): door.enters for door in area.doors}
        self._zones = {(zone.camera, zone.zone) for zone in area.zones}
        self._threshold = None if area.limit is None else Threshold(area.limit, area.limit_clear, area.limit_s)
        self.state = AreaCounterState(zones={}, recent=[])

    def restore(self, state: AreaCounterState) -> None:
        """Continue from `state`, without zones that the area no longer has."""
        known = {f"{camera}/{zone}" for camera, zone in self._zones}
        state.zones = {name: seen for name, seen in state.zones.items() if name in known}
        # The hour may have changed: compute the next reset from the last one.
        state.next_reset = math.inf
        self.state = state

    def is_relevant(self, event: Event) -> bool:
        """Return whether the event is about a door or a zone of this area."""
        if isinstance(event, LineCrossed):
            return (event.camera, event.line) in self._doors and event.class_name in self.area.classes
        return isinstance(event, (ZoneChanged, ZoneMinute)) and (event.camera, event.zone) in self._zones

    @property
    def uncertainty(self) -> float:
        """Return half the width of the 95 % interval of the occupancy."""
        crossings = self.state.entries + self.state.exits
        return round(CONFIDENCE_Z * math.sqrt(crossings * self.area.crossing_error), 1)

    def update(self, event: Event) -> list[Event]:
        """Process one event and return the resulting events. A repeated event changes nothing."""
        if not self.is_relevant(event):
            return []
        name = int.from_bytes(hashlib.blake2b(event.id.encode(), digest_size=8).digest(), "big")
        if name in self.state.recent:
            return []
        self.state.recent.append(name)
        del self.state.recent[:-MAX_RECENT_EVENTS]
        self._start_clock(event.ts)
        # The timestamp of a minute is its start, and its occupancy is that of its end.
        seen_at = event.ts + 60 if isinstance(event, ZoneMinute) else event.ts
        events = self._reset_before(seen_at)
        self.state.clock = max(self.state.clock, seen_at)
        if isinstance(event, LineCrossed):
            return events + self._count_crossing(event)
        if isinstance(event, (ZoneChanged, ZoneMinute)):
            return events + self._update_zone(event, seen_at)
        return events

    def tick(self, now: float) -> list[Event]:
        """Run the resets that are due and check the limit; `now` in Unix seconds."""
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
        else:
            state.exits += 1
        state.occupancy = max(0, state.occupancy + (1 if entered else -1), self._count_visible())
        changed = self._build_event(event.id, event.camera, event.ts, "crossing")
        return [changed, *self._check_limit(event.camera, event.ts)]

    def _update_zone(self, event: ZoneChanged | ZoneMinute, seen_at: float) -> list[Event]:
        state = self.state
        key = f"{event.camera}/{event.zone}"
        before = state.zones.get(key)
        if before is not None and before.ts > seen_at:
            return []
        state.zones[key] = ZoneReading(event.occupancy, seen_at)
        occupancy = max(state.occupancy if self._doors else 0, self._count_visible())
        if occupancy == state.occupancy:
            return self._check_limit(event.camera, seen_at)
        state.occupancy = occupancy
        return [self._build_event(event.id, event.camera, seen_at, "zone"), *self._check_limit(event.camera, seen_at)]

    def _count_visible(self) -> int:
        """Count the people that the zones see now."""
        oldest = self.state.clock - MAX_READING_AGE_S
        return sum(seen.occupancy for seen in self.state.zones.values() if seen.ts >= oldest)

    def _start_clock(self, ts: float) -> None:
        if not self.state.since:
            self.state.since = ts
        if self.state.next_reset == math.inf and self.area.reset_at:
            self.state.next_reset = find_next_reset(self.state.since, self._zone, self.area.reset_at)

    def _reset_before(self, ts: float) -> list[Event]:
        """Run the newest reset that was due at or before `ts`."""
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
        alert_id = f"area:{self.area.id}:occupancy_{change}:{round(ts * 1000)}"
        if change == "opened":
            limit.open(alert_id, ts, self.state.occupancy)
        alert = Alert(
            id=alert_id,
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
    """Find the next moment at which the local clock shows a given time.

    A time that the clocks skip counts with the old offset. Of a time that occurs twice, the first counts.

    Args:
        after: the result is later than this, Unix seconds.
        zone: time zone of the site.
        at: local time, "HH:MM".

    Returns:
        Unix seconds.
    """
    hour, minute = (int(part) for part in at.split(":"))
    day = datetime.fromtimestamp(after, zone).date()
    while True:
        moment = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).timestamp()
        if moment > after:
            return moment
        day += timedelta(days=1)
