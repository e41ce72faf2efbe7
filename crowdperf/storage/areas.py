"""Areas as they are now, in one hash: who wants to show them reads it, and hears of changes by `AreaChanged`."""

from __future__ import annotations

from typing import Any

import msgspec
import redis.asyncio
from msgspec import Struct


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
