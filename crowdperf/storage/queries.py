"""Reading the history of crossings: counts over a range, and crossings page by page. Nothing is ever written here."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
import redis.asyncio

from crowdperf.storage.crossings import PERSONS, VEHICLES, Crossing, decode_member

PAGE = 1000
"""Members per ZRANGEBYSCORE: small enough that other requests get their turn between two of them."""
LOGS = (PERSONS, VEHICLES)


class Wanted(NamedTuple):
    """Which crossings: of the half-open range [start, end) in Unix seconds; an empty text admits every value."""

    start: float
    end: float
    camera: str = ""
    line: str = ""
    klass: str = ""
    direction: str = ""

    def admits(self, crossing: Crossing) -> bool:
        """Whether the crossing passes the filters; the range is the query's business."""
        return (
            (not self.camera or crossing.camera == self.camera)
            and (not self.line or crossing.line == self.line)
            and (not self.klass or crossing.klass == self.klass)
            and (not self.direction or crossing.direction == self.direction)
        )

    def logs(self) -> tuple[str, ...]:
        """The sorted sets that can hold what is wanted."""
        if not self.klass:
            return LOGS
        return (PERSONS,) if self.klass == "person" else (VEHICLES,)


async def crossings(client: redis.asyncio.Redis, wanted: Wanted, prefix: str = "") -> AsyncIterator[Crossing]:
    """Every wanted crossing, oldest first within each log.

    Members of a foreign form are passed over: the history must stay readable whatever somebody added by hand.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    for name in wanted.logs():
        low, skip = repr(wanted.start), 0
        while True:
            rows = await _range(client, prefix + name, low, f"({wanted.end!r}", skip)
            for raw, _ in rows:
                crossing = _decoded(raw)
                if crossing is not None and wanted.admits(crossing):
                    yield crossing
            if len(rows) < PAGE:
                break
            low, skip = _resume(rows, low, skip)


async def count(
    client: redis.asyncio.Redis, wanted: Wanted, group: Callable[[Crossing], tuple[str, ...]], prefix: str = ""
) -> dict[tuple[str, ...], int]:
    """How many wanted crossings there are in each group; `group` names the group of a crossing."""
    totals: dict[tuple[str, ...], int] = {}
    async for crossing in crossings(client, wanted, prefix):
        name = group(crossing)
        totals[name] = totals.get(name, 0) + 1
    return totals


async def newest(
    client: redis.asyncio.Redis, wanted: Wanted, before: tuple[float, str] | None, limit: int, prefix: str = ""
) -> list[Crossing]:
    """The newest wanted crossings first, at most `limit`, all of them older than `before` = (ts, id) where it is given.

    The order is by (ts, id), both descending, over both logs, so that (ts, id) of the last row continues the list.
    """
    end = wanted.end if before is None else min(wanted.end, before[0])
    inclusive = before is not None and before[0] < wanted.end
    pages = [await _newest_of(client, prefix + name, wanted, before, limit, end, inclusive) for name in wanted.logs()]
    return list(heapq.merge(*pages, key=_order, reverse=True))[:limit]


async def _newest_of(
    client: redis.asyncio.Redis,
    name: str,
    wanted: Wanted,
    before: tuple[float, str] | None,
    limit: int,
    end: float,
    inclusive: bool,
) -> list[Crossing]:
    """`newest` of one log."""
    found: list[Crossing] = []
    high, skip = repr(end) if inclusive else f"({end!r}", 0
    while True:
        reply: Any = await client.zrevrangebyscore(
            name, high, repr(wanted.start), start=skip, num=PAGE, withscores=True
        )
        rows: list[tuple[bytes, float]] = [(row[0], float(row[1])) for row in reply]
        for raw, _ in rows:
            crossing = _decoded(raw)
            if crossing is not None and wanted.admits(crossing) and (before is None or _order(crossing) < before):
                found.append(crossing)
        # A score may span pages, and members of one score come in the order of their bytes: the page is complete
        # only when the next score has begun.
        if len(rows) < PAGE or (len(found) > limit and found[limit - 1].ts > rows[-1][1]):
            found.sort(key=_order, reverse=True)
            return found[:limit]
        high, skip = _resume(rows, high, skip)


def _order(crossing: Crossing) -> tuple[float, str]:
    return crossing.ts, crossing.id


async def _range(client: redis.asyncio.Redis, name: str, low: str, high: str, skip: int) -> list[tuple[bytes, float]]:
    reply: Any = await client.zrangebyscore(name, low, high, start=skip, num=PAGE, withscores=True)
    return [(row[0], float(row[1])) for row in reply]


def _resume(rows: list[tuple[bytes, float]], bound: str, skip: int) -> tuple[str, int]:
    """Where the next page begins: at the last score, behind the members of that score that were read.

    A growing offset alone would make Redis walk the range from its beginning for every page.
    """
    last = rows[-1][1]
    read = sum(1 for _, score in rows if score == last)
    return repr(last), read + (skip if bound == repr(last) else 0)


def _decoded(raw: bytes) -> Crossing | None:
    try:
        return decode_member(raw)
    except msgspec.DecodeError:
        return None
