"""Time buckets: minute, hour and day of the site's time zone. Pure; all times are Unix seconds.

Minutes and hours are slots of a grid that is the same in every zone. Days are calendar days of the site, 23 or 25 hours
long where the clocks change. A zone whose offset from UTC is not a whole number of hours gets a grid of quarter hours.
"""

from __future__ import annotations

import math
import zoneinfo
from datetime import date, datetime, timedelta, timezone
from typing import Literal, NamedTuple

Bucket = Literal["minute", "hour", "day"]
BUCKETS: tuple[Bucket, ...] = ("minute", "hour", "day")
QUARTER_S = 900
MAX_CACHED_QUARTERS = 200_000


class Level(NamedTuple):
    """One resolution of counters: the width of a slot and the slots per chunk."""

    name: str
    slots: int
    """Slots per chunk."""
    bytes: int
    """Bytes per counter, big-endian and unsigned as in BITFIELD."""
    seconds: int
    """Seconds per slot; 0 for calendar days."""


MINUTE = Level("minute", 1440, 2, 60)
HOUR = Level("hour", 672, 4, 3600)
QUARTER = Level("quarter", 672, 4, QUARTER_S)
DAY = Level("day", 512, 4, 0)


class RangePart(NamedTuple):
    """Slots [first, end) of one level; without a level, crossings in [start, stop), counted one by one."""

    level: Level | None
    first: int
    end: int
    start: float
    stop: float


class Calendar:
    """Slots and buckets in the site's time zone, cached per quarter hour: no offset changes within one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.zone = zoneinfo.ZoneInfo(name)
        self.grid = HOUR if _has_whole_hours(self.zone) else QUARTER
        """The level that hours are summed from."""
        self._days: dict[int, int] = {}
        self._hours: dict[int, int] = {}

    def get_slot(self, level: Level, ts: float) -> int:
        """Return the slot of `level` that contains `ts`."""
        return int(ts // level.seconds) if level.seconds else self.get_day(ts)

    def get_day(self, ts: float) -> int:
        """Return the calendar day of `ts`, numbered as by `date.toordinal`."""
        quarter = int(ts // QUARTER_S)
        found = self._days.get(quarter)
        if found is None:
            self._days = {} if len(self._days) > MAX_CACHED_QUARTERS else self._days
            found = self._days[quarter] = datetime.fromtimestamp(quarter * QUARTER_S, self.zone).toordinal()
        return found

    def get_day_start(self, day: int) -> int:
        """Return the start of a day: midnight, or the end of the gap where the clocks skip midnight."""
        return int(datetime.combine(date.fromordinal(day), datetime.min.time(), self.zone).timestamp())

    def get_hour_start(self, ts: float) -> int:
        """Return the start of the local hour that contains `ts`."""
        if self.grid is HOUR:
            return int(ts // 3600) * 3600
        quarter = int(ts // QUARTER_S)
        found = self._hours.get(quarter)
        if found is None:
            self._hours = {} if len(self._hours) > MAX_CACHED_QUARTERS else self._hours
            first, local = quarter, datetime.fromtimestamp(quarter * QUARTER_S, self.zone)
            # Clocks that go back into the middle of an hour (Chatham's, to 2:45) begin a piece of that hour anew.
            while local.minute >= 15:
                before = datetime.fromtimestamp((first - 1) * QUARTER_S, self.zone)
                if before.utcoffset() != local.utcoffset():
                    break
                first, local = first - 1, before
            found = self._hours[quarter] = first * QUARTER_S
        return found

    def get_bucket_start(self, bucket: Bucket, ts: float) -> int:
        """Return the start of the bucket that contains `ts`."""
        if bucket == "minute":
            return int(ts // 60) * 60
        return self.get_hour_start(ts) if bucket == "hour" else self.get_day_start(self.get_day(ts))

    def list_bucket_starts(self, bucket: Bucket, start: float, end: float) -> list[int]:
        """List the start of every bucket that overlaps a range.

        Args:
            bucket: width of the buckets.
            start: first moment, included.
            end: last moment, excluded.

        Returns:
            Unix seconds in ascending order.
        """
        if bucket == "day":
            last = self.get_day(math.nextafter(end, -math.inf))
            return [self.get_day_start(day) for day in range(self.get_day(start), last + 1)]
        step = 60 if bucket == "minute" else self.grid.seconds
        found = dict.fromkeys(
            self.get_bucket_start(bucket, n * step) for n in range(int(start // step), math.ceil(end / step))
        )
        return list(found)

    def format_time(self, ts: float) -> str:
        """Format `ts` as RFC 3339 with the site's offset and milliseconds."""
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=round(ts * 1000))
        return moment.astimezone(self.zone).isoformat(timespec="milliseconds")

    def split_range(self, start: float, end: float, bucket: Bucket | None, minutes_from: float) -> list[RangePart]:
        """Split a range into whole slots of the coarsest usable level, and finer parts at its edges.

        Args:
            start: first moment, included.
            end: last moment, excluded.
            bucket: width of the result's buckets; None for one total.
            minutes_from: minute counters exist from here on. Earlier edges are counted from the crossings.

        Returns:
            The parts in ascending order.
        """
        if bucket == "minute":
            return self._split_fine(start, end, minutes_from)
        width = self.grid.seconds
        first, last = math.ceil(start / width), math.floor(end / width)
        if first >= last:
            return self._split_fine(start, end, minutes_from)
        inner = self._build_slots(self.grid, first, last)
        if bucket != "hour":
            # Days below `until` have ended by the last slot.
            day, until = self._find_first_day(first * width), self.get_day(last * width)
            if day < until:
                day_start, day_end = self.get_day_start(day), self.get_day_start(until)
                inner = [
                    *self._build_slots(self.grid, first, day_start // width),
                    RangePart(DAY, day, until, day_start, day_end),
                    *self._build_slots(self.grid, day_end // width, last),
                ]
        return [
            *self._split_fine(start, first * width, minutes_from),
            *inner,
            *self._split_fine(last * width, end, minutes_from),
        ]

    def _find_first_day(self, ts: int) -> int:
        """Return the first day that starts at or after `ts`."""
        day = self.get_day(ts)
        return day if self.get_day_start(day) >= ts else day + 1

    @staticmethod
    def _build_slots(level: Level, first: int, end: int) -> list[RangePart]:
        return [RangePart(level, first, end, first * level.seconds, end * level.seconds)] if first < end else []

    def _split_fine(self, start: float, end: float, minutes_from: float) -> list[RangePart]:
        """Split a range that is shorter than a grid slot, or that is asked for by the minute."""
        first, last = math.ceil(start / 60), math.floor(end / 60)
        if first >= last or first * 60 < minutes_from:
            return [RangePart(None, 0, 0, start, end)] if start < end else []
        edges = [(start, first * 60), (last * 60, end)]
        return [
            *(RangePart(None, 0, 0, low, high) for low, high in edges[:1] if low < high),
            *self._build_slots(MINUTE, first, last),
            *(RangePart(None, 0, 0, low, high) for low, high in edges[1:] if low < high),
        ]


def _has_whole_hours(zone: zoneinfo.ZoneInfo) -> bool:
    """Return whether every offset of the zone from 1990 to 2040 is a whole number of hours."""
    months = (datetime(year, month, 15, tzinfo=timezone.utc) for year in range(1990, 2041) for month in range(1, 13))
    return all(
        int((moment.astimezone(zone).utcoffset() or timedelta()).total_seconds()) % 3600 == 0 for moment in months
    )
