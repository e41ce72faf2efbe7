"""The density grid in Redis: one packed string per camera and hour, two bytes per cell, in whole seconds.

An hour takes 1,152 bytes, so a month of one camera stays below a megabyte. A cell saturates at 65,535 seconds: 18
people who stand on one spot for the whole hour.
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


def _density_key(camera: str, hour: int, prefix: str = "") -> str:
    """Return the key of the hour that starts at `hour` (Unix seconds)."""
    return f"{prefix}crowdperf:density:{camera}:{hour}"


def stage(pipe: Any, camera: str, hour: int, cells: Mapping[int, int], days: int, prefix: str = "") -> None:
    """Add seconds to the cells of one hour, inside a transaction.

    Args:
        pipe: Redis pipeline of the transaction.
        camera: camera id.
        hour: start of the hour, Unix seconds.
        cells: cell (row * columns + column) -> seconds to add.
        days: retention in days.
        prefix: prefix of every key.
    """
    key = _density_key(camera, hour, prefix)
    steps = [part for cell, seconds in cells.items() for part in ("INCRBY", "u16", f"#{cell}", seconds)]
    pipe.execute_command("BITFIELD", key, "OVERFLOW", "SAT", *steps)
    pipe.expireat(key, hour + days * DAY_S)


async def read(client: redis.asyncio.Redis, camera: str, start: int, end: int, prefix: str = "") -> list[list[int]]:
    """Sum the grid over the hours that start in [start, end).

    Args:
        client: redis.asyncio client.
        camera: camera id.
        start: Unix seconds, included.
        end: Unix seconds, excluded.
        prefix: prefix of every key.

    Returns:
        Seconds by row and column, 18 rows of 32.
    """
    hours = range(-(-start // HOUR_S) * HOUR_S, end, HOUR_S)
    total = [0] * CELLS
    if hours:
        reply: Any = await client.mget([_density_key(camera, hour, prefix) for hour in hours])
        for packed in reply:
            if packed is not None:
                seconds = struct.unpack(f">{CELLS}H", packed.ljust(2 * CELLS, b"\0"))
                total = [before + now for before, now in zip(total, seconds)]
    return [total[row * DENSITY_GRID[0] : (row + 1) * DENSITY_GRID[0]] for row in range(DENSITY_GRID[1])]
