"""Weekly time windows on the site's clock, for alert rules and quiet hours. Pure functions."""

from __future__ import annotations

import zoneinfo
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, field

from crowdperf.settings.base import Settings

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ClockTime = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", description="HH:MM on the site's clock")]


class Window(Settings, frozen=True, kw_only=True):
    """A part of the week on the site's clock. It runs past midnight where `end` is not after `start`."""

    days: Annotated[list[Day], Meta(min_length=1)] = field(default_factory=lambda: list(DAYS))
    """Days on which the window begins."""
    start: ClockTime = "00:00"
    end: ClockTime = "00:00"


class Schedule(NamedTuple):
    """Windows on the clock of one site. Times are Unix seconds."""

    windows: Sequence[Window]
    zone: zoneinfo.ZoneInfo

    def contains(self, ts: float) -> bool:
        """Check whether a window contains `ts`."""
        return any(_find_run_end(window, ts, self.zone) is not None for window in self.windows)

    def is_active(self, ts: float) -> bool:
        """Check whether a window contains `ts`; without windows the schedule is always active."""
        return not self.windows or self.contains(ts)

    def find_end(self, ts: float) -> float:
        """Return when the windows that contain `ts` end, adjoining ones as one; `ts` where none does.

        Where they leave no gap in a week, the end is after eight days.
        """
        now = ts
        while now - ts < 8 * 86_400:
            ends = [end for window in self.windows if (end := _find_run_end(window, now, self.zone)) is not None]
            if not ends:
                return now
            now = max(ends)
        return now


def _find_run_end(window: Window, ts: float, zone: zoneinfo.ZoneInfo) -> float | None:
    """Return the end of the window's run that contains `ts` (Unix seconds), or None."""
    local = datetime.fromtimestamp(ts, zone)
    # Today's run, or yesterday's that runs past midnight.
    for back in (0, 1):
        day = (local - timedelta(days=back)).date()
        if DAYS[day.weekday()] not in window.days:
            continue
        first, last = _to_timestamp(day, window.start, zone), _to_timestamp(day, window.end, zone)
        if window.end <= window.start:
            last = _to_timestamp(day + timedelta(days=1), window.end, zone)
        if first <= ts < last:
            return last
    return None


def _to_timestamp(day: date, clock: str, zone: zoneinfo.ZoneInfo) -> float:
    # By the wall clock: 08:00 stays 08:00 on the days on which clocks change.
    return datetime.fromisoformat(f"{day}T{clock}:00").replace(tzinfo=zone).timestamp()
