"""Occupancy in Redis: the minutes of each zone as a sorted set, and all areas as one hash.

A minute is stored only when someone was inside. Its member is the same in every delivery of the event, so that a
repeated write changes nothing. An area is published again by each `AreaChanged`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import redis.asyncio
from msgspec import Struct

from crowdperf.messaging.schema import ZoneMinute
from crowdperf.storage.documents import decode_or_none

MINUTE_S = 60
DWELL_BOUNDS_S = (10, 30, 60, 120, 300, 600, 1800, 3600)
"""Upper bounds of the dwell time histogram; one more bin is open at the top."""


class ZoneMinuteRecord(Struct, frozen=True, kw_only=True):
    """One minute of a zone."""

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
    """Statistics of a zone over a time range."""

    maximum: int
    mean: float
    """Over all minutes of the range; a minute without a record counts as empty."""
    entries: int
    exits: int
    dwell_mean_s: float
    dwell_median_s: float
    dwell_p90_s: float
    dwell_max_s: float
    dwell_histogram: list[int]
    """Counts up to each of DWELL_BOUNDS_S, then above the last."""
    longest_wait_s: float


def _minutes_key(camera: str, zone: str, prefix: str = "") -> str:
    """Return the key of a zone's sorted set."""
    return f"{prefix}crowdperf:zone_minutes:{camera}:{zone}"


def stage_zone_minute(pipe: Any, event: ZoneMinute, prefix: str = "") -> None:
    """Add one minute in a transaction. A repeated write changes nothing.

    Args:
        pipe: Redis pipeline of the transaction.
        event: the minute.
        prefix: prefix of every key.
    """
    names = ("ts", "occupancy", "maximum", "mean", "observed_s", "entries", "exits", "longest_wait_s")
    dwells = [float(dwell) for dwell in event.dwells.split(",") if dwell]
    member = ZoneMinuteRecord(**{name: getattr(event, name) for name in names}, dwells=dwells)
    pipe.zadd(_minutes_key(event.camera, event.zone, prefix), {msgspec.json.encode(member): event.ts})


def expire_zone_minutes(client: Any, before: float, prefix: str = "") -> int:
    """Remove old minutes of every zone.

    Args:
        client: Redis client.
        before: remove minutes before this one, Unix seconds.
        prefix: prefix of every key.

    Returns:
        Number of removed minutes.
    """
    names = list(client.scan_iter(match=_minutes_key("*", "*", prefix), count=1000))
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.zremrangebyscore(name, "-inf", f"({before!r}")
        return sum(pipe.execute())


async def read_zone_minutes(
    client: redis.asyncio.Redis, camera: str, zone: str, start: float, end: float, prefix: str = ""
) -> list[ZoneMinuteRecord]:
    """Read the minutes that start in [start, end).

    Args:
        client: redis.asyncio client.
        camera: camera id.
        zone: zone id.
        start: Unix seconds, included.
        end: Unix seconds, excluded.
        prefix: prefix of every key.

    Returns:
        At most one record per minute, oldest first.
    """
    rows: Any = await client.zrangebyscore(_minutes_key(camera, zone, prefix), repr(start), f"({end!r}")
    return [msgspec.json.decode(row, type=ZoneMinuteRecord) for row in rows]


def summarise_minutes(minutes: Iterable[ZoneMinuteRecord], asked_s: float) -> ZoneStats:
    """Compute statistics of `minutes`, the records of a range of `asked_s` seconds."""
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
    """Return the nearest-rank quantile of a sorted list; 0 of an empty one."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


class AreaSnapshot(Struct, frozen=True, kw_only=True):
    """The present state of an area, one field of the hash."""

    area: str
    occupancy: int
    uncertainty: float
    """Half the width of the 95 % interval."""
    entries: int
    exits: int
    since: float
    """Unix seconds of the last reset."""
    next_reset: float | None
    at: float
    """Unix seconds of the newest event."""
    limit: int | None
    over_limit: bool
    """True while the limit's alert is open."""
    last_door: str = ""
    """`<camera>/<line>` of the newest crossing, empty before the first."""
    last_entered: bool = False
    """Direction of that crossing: True into the area."""
    last_at: float = 0.0
    """Unix seconds of that crossing."""
    alert: str = ""
    """Id of the limit's open alert."""
    opened_at: float = 0.0
    """Unix seconds when it opened."""
    peak: float = 0.0
    """Most people since then."""


def load_areas(client: Any, prefix: str = "") -> list[AreaSnapshot]:
    """Load all areas; `client` is a blocking one."""
    rows = (decode_or_none(raw, AreaSnapshot) for raw in client.hgetall(areas_key(prefix)).values())
    return [row for row in rows if row is not None]


def areas_key(prefix: str = "") -> str:
    """Return the key of the hash of all areas."""
    return f"{prefix}crowdperf:areas"


def stage_area(pipe: Any, snapshot: AreaSnapshot, prefix: str = "") -> None:
    """Write an area in the transaction that changes it.

    Args:
        pipe: Redis pipeline of the transaction.
        snapshot: new state of the area.
        prefix: prefix of every key.
    """
    pipe.hset(areas_key(prefix), snapshot.area, msgspec.json.encode(snapshot))


async def read_areas(client: redis.asyncio.Redis, prefix: str = "") -> dict[str, AreaSnapshot]:
    """Return every area by its id."""
    reply: Any = await client.hgetall(areas_key(prefix))
    return {name.decode(): msgspec.json.decode(raw, type=AreaSnapshot) for name, raw in reply.items()}
