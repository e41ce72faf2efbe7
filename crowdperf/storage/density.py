"""The density grid in Redis: one packed string per camera and hour, two bytes a cell, whole seconds.

1,152 bytes an hour, so that a camera's month is below a megabyte. A cell stops at 65,535 seconds (18 people who stand
on one spot for the whole hour) instead of beginning anew.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import redis.asyncio

from crowdperf.settings.base import DENSITY_GRID

CELLS = DENSITY_GRID[0] * DENSITY_GRID[1]
HOUR_S = 3600
DAY_S = 86_400


def density_key(camera: str, hour: int, prefix: str = "") -> str:
    """Where the hour that begins at `hour` (Unix seconds) is kept."""
    return f"{prefix}crowdperf:density:{camera}:{hour}"


def stage(pipe: Any, camera: str, hour: int, cells: Mapping[int, int], days: int, prefix: str = "") -> None:
    """Add seconds by cell (row * columns + column) to an hour, within the transaction that makes it happen once."""
    key = density_key(camera, hour, prefix)
    steps = [part for cell, seconds in cells.items() for part in ("INCRBY", "u16", f"#{cell}", seconds)]
    pipe.execute_command("BITFIELD", key, "OVERFLOW", "SAT", *steps)
    pipe.expireat(key, hour + days * DAY_S)


async def read(client: redis.asyncio.Redis, camera: str, start: int, end: int, prefix: str = "") -> list[list[int]]:
    """Seconds by row and column (18 rows of 32), summed over the hours that begin in [start, end), Unix seconds.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    hours = range(-(-start // HOUR_S) * HOUR_S, end, HOUR_S)
    total = [0] * CELLS
    if hours:
        reply: Any = await client.mget([density_key(camera, hour, prefix) for hour in hours])
        for packed in reply:
            if packed is not None:
                seconds = struct.unpack(f">{CELLS}H", packed.ljust(2 * CELLS, b"\0"))
                total = [before + now for before, now in zip(total, seconds)]
    return [total[row * DENSITY_GRID[0] : (row + 1) * DENSITY_GRID[0]] for row in range(DENSITY_GRID[1])]
