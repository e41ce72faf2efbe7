"""The history of zones: one member per minute in which somebody was inside, in a sorted set per zone.

A member holds nothing that varies between deliveries of the same event, so that storing it again changes nothing.

Areas as they are now, in one hash: who wants to show them reads it, and hears of changes by `AreaChanged`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import redis.asyncio
from msgspec import Struct

from crowdperf.messaging.schema import ZoneMinute

MINUTE_S = 60
DWELL_BOUNDS_S = (10, 30, 60, 120, 300, 600, 1800, 3600)
"""Upper bounds of the dwell time distribution; one more class is open above."""


class ZoneMinuteRecord(Struct, frozen=True, kw_only=True):
    """One member."""

    ts: float
    occupancy: int
    maximum: int
    mean: float
    observed_s: float
    entries: int
    exits: int
    dwells: list[float]
    longest_wait_s: float = 0.0


class ZoneStats(Struct, frozen=True, kw_only=True):
    """A zone over a range of time."""

    maximum: int
    mean: float
    """Over the minutes asked for; a minute without an entry was empty."""
    entries: int
    exits: int
    dwell_mean_s: float
    dwell_median_s: float
    dwell_p90_s: float
    dwell_max_s: float
    dwell_histogram: list[int]
    """Numbers of dwell times up to each of DWELL_BOUNDS_S, then above the last."""
    longest_wait_s: float


def minutes_key(camera: str, zone: str, prefix: str = "") -> str:
    """The sorted set of one zone's minutes."""
    return f"{prefix}crowdperf:zone_minutes:{camera}:{zone}"


def stage_zone_minute(pipe: Any, event: ZoneMinute, prefix: str = "") -> None:
    """Add one minute inside a transaction; adding it again changes nothing."""
    member = ZoneMinuteRecord(
        ts=event.ts,
        occupancy=event.occupancy,
        maximum=event.maximum,
        mean=event.mean,
        observed_s=event.observed_s,
        entries=event.entries,
        exits=event.exits,
        dwells=[float(dwell) for dwell in event.dwells.split(",") if dwell],
        longest_wait_s=event.longest_wait_s,
    )
    pipe.zadd(minutes_key(event.camera, event.zone, prefix), {msgspec.json.encode(member): event.ts})


def expire_zone_minutes(client: Any, before: float, prefix: str = "") -> int:
    """Remove the minutes of every zone that are older than `before` (Unix seconds); returns how many."""
    names = list(client.scan_iter(match=minutes_key("*", "*", prefix), count=1000))
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.zremrangebyscore(name, "-inf", f"({before!r}")
        return sum(pipe.execute())


async def read_zone_minutes(
    client: redis.asyncio.Redis, camera: str, zone: str, start: float, end: float, prefix: str = ""
) -> list[ZoneMinuteRecord]:
    """The minutes that begin in [start, end), Unix seconds, oldest first; at most one per minute.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    rows: Any = await client.zrangebyscore(minutes_key(camera, zone, prefix), repr(start), f"({end!r}")
    return [msgspec.json.decode(row, type=ZoneMinuteRecord) for row in rows]


def summarise_minutes(minutes: Iterable[ZoneMinuteRecord], asked_s: float) -> ZoneStats:
    """One row of figures; `asked_s` is the length of the range that the minutes are of."""
    rows = list(minutes)
    dwells = sorted(dwell for row in rows for dwell in row.dwells)
    histogram = [0] * (len(DWELL_BOUNDS_S) + 1)
    for dwell in dwells:
        histogram[sum(dwell > bound for bound in DWELL_BOUNDS_S)] += 1
    present_s = sum(row.mean * MINUTE_S for row in rows)
    return ZoneStats(
        maximum=max((row.maximum for row in rows), default=0),
        mean=round(present_s / asked_s, 3) if asked_s else 0.0,
        entries=sum(row.entries for row in rows),
        exits=sum(row.exits for row in rows),
        dwell_mean_s=round(sum(dwells) / len(dwells), 1) if dwells else 0.0,
        dwell_median_s=_compute_quantile(dwells, 0.5),
        dwell_p90_s=_compute_quantile(dwells, 0.9),
        dwell_max_s=dwells[-1] if dwells else 0.0,
        dwell_histogram=histogram,
        longest_wait_s=max((row.longest_wait_s for row in rows), default=0.0),
    )


def _compute_quantile(ordered: list[float], share: float) -> float:
    """The value that `share` of `ordered` do not exceed (nearest rank), 0 of nothing."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


class AreaSnapshot(Struct, frozen=True, kw_only=True):
    """One field of the hash."""

    area: str
    occupancy: int
    uncertainty: float
    """Half the width of the 95 % interval."""
    entries: int
    exits: int
    since: float
    """The last reset, Unix seconds."""
    next_reset: float | None
    at: float
    """Unix seconds of the newest event that was heard."""
    limit: int | None
    over_limit: bool
    """Its alert is open."""
    last_door: str = ""
    """`<camera>/<line>` of the newest crossing, empty before the first."""
    last_entered: bool = False
    """Whether it led into the area."""
    last_at: float = 0.0
    """When, Unix seconds."""


def areas_key(prefix: str = "") -> str:
    """The hash of all areas."""
    return f"{prefix}crowdperf:areas"


def stage_area(pipe: Any, snapshot: AreaSnapshot, prefix: str = "") -> None:
    """Show an area inside the transaction that changes it."""
    pipe.hset(areas_key(prefix), snapshot.area, msgspec.json.encode(snapshot))


def stage_area_removal(pipe: Any, area: str, prefix: str = "") -> None:
    """Show it no longer."""
    pipe.hdel(areas_key(prefix), area)


async def read_areas(client: redis.asyncio.Redis, prefix: str = "") -> dict[str, AreaSnapshot]:
    """Every area that was ever heard of, by id.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    reply: Any = await client.hgetall(areas_key(prefix))
    return {name.decode(): msgspec.json.decode(raw, type=AreaSnapshot) for name, raw in reply.items()}
