"""Where a moment falls: minute, hour and day of the site's zone. Pure; all times are Unix seconds.

Minutes and hours are slots of a grid that is the same in every zone, days are the site's calendar days (23 or 25 hours
long where the clocks change). Zones that are not whole hours off UTC get a grid of quarters instead of hours, so that
their hours are still sums of slots.
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
    """One set of counters: slot numbers, and how many of them share a chunk."""

    name: str
    slots: int
    """Slots per chunk."""
    bytes: int
    """Bytes of a counter, big-endian and unsigned, as BITFIELD writes it."""
    seconds: int
    """Seconds per slot; 0 for calendar days."""


MINUTE = Level("minute", 1440, 2, 60)
HOUR = Level("hour", 672, 4, 3600)
QUARTER = Level("quarter", 672, 4, QUARTER_S)
DAY = Level("day", 512, 4, 0)
LEVELS = (MINUTE, HOUR, QUARTER, DAY)


class RangePart(NamedTuple):
    """A piece of a range: slots [first, end) of a level; with no level, the crossings themselves in [start, stop)."""

    level: Level | None
    first: int
    end: int
    start: float
    stop: float


class Calendar:
    """The site's zone. Conversions are remembered by the quarter of an hour, since no zone changes within one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.zone = zoneinfo.ZoneInfo(name)
        self.grid = HOUR if _has_whole_hours(self.zone) else QUARTER
        """The level that hours are made of."""
        self._days: dict[int, int] = {}
        self._hours: dict[int, int] = {}

    def get_slot(self, level: Level, ts: float) -> int:
        """The slot of that level that holds the moment."""
        return int(ts // level.seconds) if level.seconds else self.get_day(ts)

    def get_day(self, ts: float) -> int:
        """The calendar day, as `date.toordinal` numbers it."""
        quarter = int(ts // QUARTER_S)
        found = self._days.get(quarter)
        if found is None:
            self._days = {} if len(self._days) > MAX_CACHED_QUARTERS else self._days
            found = self._days[quarter] = datetime.fromtimestamp(quarter * QUARTER_S, self.zone).toordinal()
        return found

    def get_day_start(self, day: int) -> int:
        """When a day begins: midnight, or the end of the gap where the clocks leave midnight out."""
        return int(datetime.combine(date.fromordinal(day), datetime.min.time(), self.zone).timestamp())

    def get_hour_start(self, ts: float) -> int:
        """When the hour on the site's clocks begins that holds the moment."""
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
        """When the bucket begins that holds the moment."""
        if bucket == "minute":
            return int(ts // 60) * 60
        return self.get_hour_start(ts) if bucket == "hour" else self.get_day_start(self.get_day(ts))

    def list_bucket_starts(self, bucket: Bucket, start: float, end: float) -> list[int]:
        """Every bucket that overlaps [start, end), by its beginning, in order."""
        if bucket == "day":
            return [
                self.get_day_start(day) for day in range(self.get_day(start), self.get_day(_get_last_moment(end)) + 1)
            ]
        step = 60 if bucket == "minute" else self.grid.seconds
        found = dict.fromkeys(
            self.get_bucket_start(bucket, n * step) for n in range(int(start // step), math.ceil(end / step))
        )
        return list(found)

    def format_time(self, ts: float) -> str:
        """RFC 3339 in the site's zone, with its offset, to the millisecond."""
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=round(ts * 1000))
        return moment.astimezone(self.zone).isoformat(timespec="milliseconds")

    def split_range(self, start: float, end: float, bucket: Bucket | None, minutes_from: float) -> list[RangePart]:
        """How to count [start, end): whole slots from the coarsest level that serves, edges from finer ones.

        Args:
            bucket: what the counts are to be told apart by; None for a total.
            minutes_from: minutes are kept from here on; before, edges are counted from the crossings.
        """
        if bucket == "minute":
            return self._split_fine(start, end, minutes_from)
        width = self.grid.seconds
        first, last = math.ceil(start / width), math.floor(end / width)
        if first >= last:
            return self._split_fine(start, end, minutes_from)
        inner = self._build_slots(self.grid, first, last)
        if bucket != "hour":
            day, until = self._find_first_day(first * width), self._find_last_day(last * width)
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
        """The first day that begins at `ts` or later."""
        day = self.get_day(ts)
        return day if self.get_day_start(day) >= ts else day + 1

    def _find_last_day(self, ts: int) -> int:
        """The day that begins last at `ts` or before: days below it are over by then."""
        return self.get_day(ts)

    @staticmethod
    def _build_slots(level: Level, first: int, end: int) -> list[RangePart]:
        return [RangePart(level, first, end, first * level.seconds, end * level.seconds)] if first < end else []

    def _split_fine(self, start: float, end: float, minutes_from: float) -> list[RangePart]:
        """A range shorter than a slot of the grid, or one that is wanted by the minute."""
        first, last = math.ceil(start / 60), math.floor(end / 60)
        if first >= last or first * 60 < minutes_from:
            return [RangePart(None, 0, 0, start, end)] if start < end else []
        edges = [(start, first * 60), (last * 60, end)]
        return [
            *(RangePart(None, 0, 0, low, high) for low, high in edges[:1] if low < high),
            *self._build_slots(MINUTE, first, last),
            *(RangePart(None, 0, 0, low, high) for low, high in edges[1:] if low < high),
        ]


def _get_last_moment(end: float) -> float:
    """The last moment of a half-open range."""
    return math.nextafter(end, -math.inf)


def _has_whole_hours(zone: zoneinfo.ZoneInfo) -> bool:
    """Whether the zone was, and is known to stay, whole hours off UTC."""
    months = (datetime(year, month, 15, tzinfo=timezone.utc) for year in range(1990, 2041) for month in range(1, 13))
    return all(
        int((moment.astimezone(zone).utcoffset() or timedelta()).total_seconds()) % 3600 == 0 for moment in months
    )
