"""How long history is kept, and what goes first when the store fills: nothing is removed anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import redis

from crowdperf.settings.site import Retention
from crowdperf.storage.buckets import DAY, HOUR, MINUTE, QUARTER, Calendar
from crowdperf.storage.counts import LOGS, expire_chunks, meta_key

DAY_S = 86_400.0
CATCH_UP_FACTOR = 24.0
"""How much faster than time the accepted clock may run."""
MAX_FREE_STEP_S = 60.0
"""What the accepted clock may move at one look however little time has passed."""
WARN_SHARE = 0.75
DROP_SHARE = 0.90
RELIEVED_SHARE = 0.70
MIN_KEPT_DAYS = 7
"""The newest crossings, which even a full store keeps."""
Filling = Literal["ok", "filling", "dropping"]
SET_FIELD_SCRIPT = "#!lua flags=allow-oom\nreturn redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"


class SteadyClock:
    """Unix time that a wrong clock cannot hurry: history is removed by it, and cannot be brought back.

    A clock that leaps forward is followed at 24 times the speed of time: after three months without power, four days
    catch up; after a leap of ten years by mistake, an operator has days to see the log before much is gone.
    """

    def __init__(self, accepted: float | None) -> None:
        self._accepted = accepted
        self._at: float | None = None

    def now(self, wall: float, monotonic: float) -> float:
        """The accepted time; `wall` in Unix seconds, `monotonic` in seconds of any origin."""
        if self._accepted is None:
            self._accepted = wall
        elapsed = monotonic - self._at if self._at is not None else 0.0
        self._at = monotonic
        self._accepted = min(wall, self._accepted + max(elapsed * CATCH_UP_FACTOR, MAX_FREE_STEP_S))
        return self._accepted


class MemoryUsage(NamedTuple):
    """How full the server is."""

    used: int
    limit: int
    """`maxmemory`, else the machine's memory; bytes."""

    @property
    def share(self) -> float:
        """0 to 1 and above."""
        return self.used / self.limit if self.limit else 0.0


def read_memory_usage(client: Any) -> MemoryUsage:
    """Ask the server."""
    info = client.info("memory")
    return MemoryUsage(int(info["used_memory"]), int(info.get("maxmemory") or info.get("total_system_memory") or 0))


def update_filling(share: float, before: Filling) -> Filling:
    """The state after a look at the memory, with hysteresis: a state ends only well below where it began."""
    if share >= DROP_SHARE:
        return "dropping"
    if share < RELIEVED_SHARE:
        return "ok"
    if share >= WARN_SHARE or before != "ok":
        return "dropping" if before == "dropping" and share >= WARN_SHARE else "filling"
    return "ok"


def set_field(client: Any, name: str, field: str, value: float) -> None:
    """Set one field of a hash, on a full server too: what makes room has to be noted before.

    Raises:
        redis.OutOfMemoryError: the server is full, and is a Redis before 7, which has no such exception.
    """
    try:
        client.eval(SET_FIELD_SCRIPT, 1, name, field, repr(value))
    except redis.OutOfMemoryError:
        raise
    except redis.ResponseError as error:
        if "script" not in str(error).lower():
            raise
        client.hset(name, field, repr(value))


def expire_crossings(client: Any, before: float, prefix: str = "") -> int:
    """Remove crossings older than `before`, and remember that there may have been some; returns how many went.

    A crossing from before that moment is never added again: nobody could tell whether it was counted already.
    """
    meta = meta_key(prefix)
    if not any(client.zcount(prefix + name, "-inf", f"({before!r}") for name in LOGS):
        return 0
    # First: a floor without the removal costs nothing, a removal without the floor could count twice.
    set_field(client, meta, "floor", max(before, float(client.hget(meta, "floor") or before)))
    with client.pipeline(transaction=True) as pipe:
        for name in LOGS:
            pipe.zremrangebyscore(prefix + name, "-inf", f"({before!r}")
        return sum(pipe.execute())


def expire_counts(client: redis.Redis, retention: Retention, calendar: Calendar, now: float, prefix: str = "") -> int:
    """Remove counters past their retention; returns how many chunks went."""
    return (
        expire_minutes(client, now - retention.minute_counts_days * DAY_S, prefix)
        + expire_chunks(client, HOUR, calendar.get_slot(HOUR, now - retention.hour_counts_days * DAY_S), prefix)
        + expire_chunks(client, QUARTER, calendar.get_slot(QUARTER, now - retention.hour_counts_days * DAY_S), prefix)
        + expire_chunks(client, DAY, calendar.get_day(max(0.0, now - retention.day_counts_days * DAY_S)), prefix)
    )


def expire_minutes(client: redis.Redis, before: float, prefix: str = "") -> int:
    """Remove minutes before the UTC day of `before`; from then on they are read from the crossings."""
    first = int(before // DAY_S) * DAY_S
    known = client.hget(meta_key(prefix), "minutes_from")
    if known is None or float(known) < first:
        set_field(client, meta_key(prefix), "minutes_from", first)
    return expire_chunks(client, MINUTE, int(first // 60), prefix)


def relieve(client: Any, now: float, trim_events: Callable[[float], int], prefix: str = "") -> str:
    """Drop the next thing of a store that is nearly full, in this order; returns what was dropped, for the log.

    First minute counters up to yesterday, then events older than a day that every reader has read, then the oldest day
    of crossings (their hour and day counts stay), never the newest seven days.
    """
    minutes = expire_minutes(client, now - DAY_S, prefix)
    if minutes:
        return f"minute counts up to yesterday ({minutes} chunks)"
    events = trim_events(now - DAY_S)
    if events:
        return f"{events} events older than a day"
    oldest = [row[0][1] for name in LOGS if (row := client.zrange(prefix + name, 0, 0, withscores=True))]
    if oldest and float(min(oldest)) < now - MIN_KEPT_DAYS * DAY_S:
        before = min(float(min(oldest)) + DAY_S, now - MIN_KEPT_DAYS * DAY_S)
        return f"{expire_crossings(client, before, prefix)} of the oldest crossings (their counts stay)"
    return ""
