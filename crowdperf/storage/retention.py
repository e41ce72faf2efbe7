"""Retention of the history, and what is dropped first when Redis runs full. Nothing is removed elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import redis

from crowdperf.settings.site import Retention
from crowdperf.storage.buckets import DAY, HOUR, MINUTE, QUARTER, Calendar, Level
from crowdperf.storage.counts import LOGS, CounterChunk, meta_key
from crowdperf.storage.steady_clock import DAY_S

WARN_SHARE = 0.75
DROP_SHARE = 0.90
RELIEVED_SHARE = 0.70
MIN_KEPT_DAYS = 7
"""The newest crossings, kept even when Redis is full."""
Filling = Literal["ok", "filling", "dropping"]
SET_FIELD_SCRIPT = "#!lua flags=allow-oom\nreturn redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"


class MemoryUsage(NamedTuple):
    """Memory usage of the Redis server."""

    used: int
    limit: int
    """Bytes: `maxmemory`, else the memory of the machine."""

    @property
    def share(self) -> float:
        """Return the used share: 0 to 1, or above."""
        return self.used / self.limit if self.limit else 0.0


def read_memory_usage(client: Any) -> MemoryUsage:
    """Read the memory usage of the server."""
    info = client.info("memory")
    return MemoryUsage(int(info["used_memory"]), int(info.get("maxmemory") or info.get("total_system_memory") or 0))


def update_filling(share: float, before: Filling) -> Filling:
    """Return the new state for a memory share. Each state ends well below the share where it began."""
    if share >= DROP_SHARE:
        return "dropping"
    if share < RELIEVED_SHARE:
        return "ok"
    if share >= WARN_SHARE or before != "ok":
        return "dropping" if before == "dropping" and share >= WARN_SHARE else "filling"
    return "ok"


class HistoryRetention:
    """The removal of history from one Redis."""

    def __init__(self, client: Any, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix

    def set_field(self, name: str, field: str, value: float | str) -> None:
        """Set one field of a hash, even on a full server: what makes room must be recorded first.

        Args:
            name: key of the hash.
            field: name of the field.
            value: a number is stored as `repr`.

        Raises:
            redis.OutOfMemoryError: the server is full and older than Redis 7.
        """
        text = value if isinstance(value, str) else repr(value)
        try:
            self._client.eval(SET_FIELD_SCRIPT, 1, name, field, text)
        except redis.OutOfMemoryError:
            raise
        except redis.ResponseError as error:
            if "script" not in str(error).lower():
                raise
            self._client.hset(name, field, text)

    def expire_crossings(self, before: float) -> int:
        """Remove crossings before `before` and move the floor of the history up to it; return their number.

        A crossing below the floor is never added again, because it may have been counted before.
        """
        meta = meta_key(self._prefix)
        if not any(self._client.zcount(self._prefix + name, "-inf", f"({before!r}") for name in LOGS):
            return 0
        # First: a floor without the removal costs nothing, a removal without the floor could count twice.
        self.set_field(meta, "floor", max(before, float(self._client.hget(meta, "floor") or before)))
        with self._client.pipeline(transaction=True) as pipe:
            for name in LOGS:
                pipe.zremrangebyscore(self._prefix + name, "-inf", f"({before!r}")
            return sum(pipe.execute())

    def expire_counts(self, retention: Retention, calendar: Calendar, now: float) -> int:
        """Remove counters that are past their retention.

        Args:
            retention: days to keep of each level.
            calendar: calendar of the site.
            now: Unix seconds.

        Returns:
            Number of removed chunks.
        """
        return (
            self.expire_minutes(now - retention.minute_counts_days * DAY_S)
            + self._expire_chunks(HOUR, calendar.get_slot(HOUR, now - retention.hour_counts_days * DAY_S))
            + self._expire_chunks(QUARTER, calendar.get_slot(QUARTER, now - retention.hour_counts_days * DAY_S))
            + self._expire_chunks(DAY, calendar.get_day(max(0.0, now - retention.day_counts_days * DAY_S)))
        )

    def expire_minutes(self, before: float) -> int:
        """Remove minute counters before the UTC day of `before`; later reads there use the crossings."""
        first = int(before // DAY_S) * DAY_S
        known = self._client.hget(meta_key(self._prefix), "minutes_from")
        if known is None or float(known) < first:
            self.set_field(meta_key(self._prefix), "minutes_from", first)
        return self._expire_chunks(MINUTE, int(first // 60))

    def _expire_chunks(self, level: Level, before_slot: int) -> int:
        """Remove chunks that end before a slot; return their number."""
        head = CounterChunk(level, 0, "").get_key(self._prefix).removesuffix("0:")
        gone = []
        for name in self._client.scan_iter(match=f"{_escape_pattern(head)}*", count=1000):
            chunk = name.decode()[len(head) :].partition(":")[0]
            if (int(chunk) + 1) * level.slots <= before_slot:
                gone.append(name)
        for at in range(0, len(gone), 500):
            self._client.unlink(*gone[at : at + 500])
        return len(gone)

    def relieve(self, now: float, trim_events: Callable[[float], int]) -> str:
        """Drop the next part of the history from a nearly full server.

        The order: minute counters up to yesterday, events older than a day that every consumer has read, then the
        oldest day of crossings. Hour and day counters stay, and so do the newest seven days of crossings.
        `trim_events` removes events before a moment. The result describes for the log what was dropped.
        """
        minutes = self.expire_minutes(now - DAY_S)
        if minutes:
            return f"minute counts up to yesterday ({minutes} chunks)"
        events = trim_events(now - DAY_S)
        if events:
            return f"{events} events older than a day"
        first = (self._client.zrange(self._prefix + name, 0, 0, withscores=True) for name in LOGS)
        oldest = [row[0][1] for row in first if row]
        if oldest and float(min(oldest)) < now - MIN_KEPT_DAYS * DAY_S:
            before = min(float(min(oldest)) + DAY_S, now - MIN_KEPT_DAYS * DAY_S)
            return f"{self.expire_crossings(before)} of the oldest crossings (their counts stay)"
        return ""


def _escape_pattern(text: str) -> str:
    """Escape the wildcards of SCAN."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in text)
