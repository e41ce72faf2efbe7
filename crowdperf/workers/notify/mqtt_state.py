"""Today's counts and the occupancy per camera, as numbers for other systems (MQTT). Pure."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from datetime import datetime

from msgspec import Struct

from crowdperf.messaging.schema import AnyEvent, LineCrossed, ZoneChanged

READING_EVENT_TYPES = (LineCrossed.__name__, ZoneChanged.__name__)


class Reading(Struct, frozen=True):
    """One number. A newer value replaces it."""

    camera: str
    kind: str
    """`zone` or `line`."""
    name: str
    measure: str
    """`occupancy`, `in` or `out`."""
    value: int

    @property
    def path(self) -> str:
        """Return `<camera>/<kind>/<name>/<measure>`."""
        return f"{self.camera}/{self.kind}/{self.name}/{self.measure}"


class ReadingsRemoved(Struct, frozen=True):
    """Removes all numbers of a camera that left the configuration."""

    camera: str


class CameraReadings(Struct):
    """The numbers of one camera."""

    day: str = ""
    counts: dict[str, int] = {}
    """`<line>/<direction>` -> crossings today, all classes."""

    def update(self, event: AnyEvent, timezone: zoneinfo.ZoneInfo) -> Iterator[Reading]:
        """Yield the numbers that an event changes."""
        if isinstance(event, ZoneChanged):
            yield Reading(event.camera, "zone", event.zone, "occupancy", event.occupancy)
        if isinstance(event, LineCrossed):
            if _format_day(event.ts, timezone) > self.day:
                yield from self.advance_time(event.camera, event.ts, timezone)
            if _format_day(event.ts, timezone) == self.day:
                name = f"{event.line}/{event.direction}"
                self.counts[name] = self.counts.get(name, 0) + 1
                yield Reading(event.camera, "line", event.line, event.direction, self.counts[name])

    def advance_time(self, camera: str, now: float, timezone: zoneinfo.ZoneInfo) -> Iterator[Reading]:
        """Restart the counts at 0 on another day, also an earlier one where the clock was set back.

        Args:
            camera: camera id.
            now: Unix seconds.
            timezone: time zone of the site.

        Yields:
            A zero for each count of the day before.
        """
        day = _format_day(now, timezone)
        if day == self.day:
            return
        old, self.day, self.counts = self.counts, day, {}
        for name in old:
            line, _, direction = name.partition("/")
            yield Reading(camera, "line", line, direction, 0)


def _format_day(ts: float, timezone: zoneinfo.ZoneInfo) -> str:
    return datetime.fromtimestamp(ts, timezone).date().isoformat()
