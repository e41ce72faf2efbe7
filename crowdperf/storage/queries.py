"""Reading the history of crossings: counts over a range, and crossings page by page. Nothing is ever written here.

The whole history of crossings, a page at a time, for those who copy it.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import redis.asyncio
from numpy.typing import NDArray

from crowdperf.storage import counts
from crowdperf.storage.buckets import HOUR, Bucket, Calendar, RangePart
from crowdperf.storage.counts import LOGS, PERSON_LOG, VEHICLE_LOG, CrossingRecord, Series, decode_member

PAGE_MEMBERS = 1000
"""Members per ZRANGEBYSCORE: small enough that other requests get their turn between two of them."""
GROUP_FIELDS = ("camera", "line", "class", "direction")
"""What counts can be grouped by, besides a bucket of time; the order is that of `counts.Series`."""
GroupKey = tuple[tuple[str, ...], int]
"""Values of the grouped fields, and the beginning of the bucket in Unix seconds (0 without buckets)."""


class CrossingFilter(NamedTuple):
    """Which crossings: of the half-open range [start, end) in Unix seconds; an empty text admits every value."""

    start: float
    end: float
    camera: str = ""
    line: str = ""
    class_name: str = ""
    direction: str = ""
    cameras: frozenset[str] | None = None
    """Only these, whatever else is asked for; None is all."""

    def admits(self, crossing: CrossingRecord | Series) -> bool:
        """Whether the crossing, or all of the series, passes the filters; the range is the query's business."""
        return (
            (not self.camera or crossing.camera == self.camera)
            and (not self.line or crossing.line == self.line)
            and (not self.class_name or crossing.class_name == self.class_name)
            and (not self.direction or crossing.direction == self.direction)
            and (self.cameras is None or crossing.camera in self.cameras)
        )

    def get_logs(self) -> tuple[str, ...]:
        """The sorted sets that can hold what is wanted."""
        if not self.class_name:
            return LOGS
        return (PERSON_LOG,) if self.class_name == "person" else (VEHICLE_LOG,)


async def iter_crossings(
    client: redis.asyncio.Redis, crossing_filter: CrossingFilter, prefix: str = "", log: str | None = None
) -> AsyncIterator[CrossingRecord]:
    """Every wanted crossing (of one log), oldest first within each log.

    Members of a foreign form are passed over: the history must stay readable whatever somebody added by hand.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    for name in crossing_filter.get_logs() if log is None else (log,):
        low, skip = repr(crossing_filter.start), 0
        while True:
            rows = await _read_range(client, prefix + name, low, f"({crossing_filter.end!r}", skip)
            for raw, _ in rows:
                crossing = _decode_or_none(raw)
                if crossing is not None and crossing_filter.admits(crossing):
                    yield crossing
            if len(rows) < PAGE_MEMBERS:
                break
            low, skip = _resume(rows, low, skip)


async def count_crossings(
    client: redis.asyncio.Redis,
    crossing_filter: CrossingFilter,
    fields: Sequence[str],
    bucket: Bucket | None,
    calendar: Calendar,
    prefix: str = "",
) -> dict[GroupKey, int]:
    """How many wanted crossings there are in each group, groups without any left out.

    Counted from the counters; the crossings themselves are read for the edges of the range, and for all of it while the
    counters do not cover the history (right after an update of an older installation).

    Args:
        fields: some of `FIELDS`.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    minutes_from = await counts.get_covered_from(client, calendar, prefix)
    if minutes_from is None:
        parts = [RangePart(None, 0, 0, crossing_filter.start, crossing_filter.end)]
        series = []
    else:
        parts = calendar.split_range(crossing_filter.start, crossing_filter.end, bucket, minutes_from)
        series = [row for row in await counts.list_series(client, prefix) if crossing_filter.admits(row)]
    places = [GROUP_FIELDS.index(name) for name in fields]
    totals: dict[GroupKey, int] = {}
    for part in parts:
        if part.level is None:
            await _add_crossings(client, crossing_filter, part, places, bucket, calendar, totals, prefix)
        elif series:
            found = await counts.read_counters(client, part.level, part.first, part.end, series, prefix)
            _add_counters(found, series, part, places, bucket, calendar, totals)
    return totals


async def _add_crossings(
    client: redis.asyncio.Redis,
    crossing_filter: CrossingFilter,
    part: RangePart,
    places: list[int],
    bucket: Bucket | None,
    calendar: Calendar,
    totals: dict[GroupKey, int],
    prefix: str,
) -> None:
    """Add the crossings of one part, one by one."""
    async for row in iter_crossings(client, crossing_filter._replace(start=part.start, end=part.stop), prefix):
        values = counts.get_series(row)
        group = tuple(values[place] for place in places), calendar.get_bucket_start(bucket, row.ts) if bucket else 0
        totals[group] = totals.get(group, 0) + 1


def _add_counters(
    counters: NDArray[np.int64],
    series: list[Series],
    part: RangePart,
    places: list[int],
    bucket: Bucket | None,
    calendar: Calendar,
    totals: dict[GroupKey, int],
) -> None:
    """Add counters of shape (series, slots) of one part."""
    names = [tuple(row[place] for place in places) for row in series]
    groups = list(dict.fromkeys(names))
    rows = np.zeros((len(groups), counters.shape[1]), np.int64)
    for index, name in enumerate(names):
        rows[groups.index(name)] += counters[index]
    starts, edges = _find_bucket_edges(part, bucket, calendar)
    sums = np.add.reduceat(rows, edges, axis=1)
    for row, column in zip(*(axis.tolist() for axis in np.nonzero(sums))):
        group = groups[row], starts[column]
        totals[group] = totals.get(group, 0) + int(sums[row, column])


def _find_bucket_edges(part: RangePart, bucket: Bucket | None, calendar: Calendar) -> tuple[list[int], list[int]]:
    """Beginnings of the buckets of a part's slots, and at which slot each bucket begins."""
    if bucket is None or part.level is None:
        return [0], [0]
    if part.level.seconds == 0:
        return [calendar.get_day_start(day) for day in range(part.first, part.end)], list(range(part.end - part.first))
    if bucket == "minute" or (bucket == "hour" and part.level is HOUR):
        seconds = part.level.seconds
        return list(range(part.first * seconds, part.end * seconds, seconds)), list(range(part.end - part.first))
    starts: list[int] = []
    edges: list[int] = []
    for slot in range(part.first, part.end):
        start = calendar.get_bucket_start(bucket, slot * part.level.seconds)
        if not starts or start != starts[-1]:
            starts.append(start)
            edges.append(slot - part.first)
    return starts, edges


async def read_newest(
    client: redis.asyncio.Redis,
    crossing_filter: CrossingFilter,
    before: tuple[float, str] | None,
    limit: int,
    prefix: str = "",
) -> list[CrossingRecord]:
    """The newest wanted crossings first, at most `limit`, all of them older than `before` = (ts, id) where it is given.

    The order is by (ts, id), both descending, over both logs, so that (ts, id) of the last row continues the list.
    """
    end = crossing_filter.end if before is None else min(crossing_filter.end, before[0])
    inclusive = before is not None and before[0] < crossing_filter.end
    pages = [
        await _read_newest_in_log(client, prefix + name, crossing_filter, before, limit, end, inclusive)
        for name in crossing_filter.get_logs()
    ]
    return list(heapq.merge(*pages, key=_get_sort_key, reverse=True))[:limit]


async def _read_newest_in_log(
    client: redis.asyncio.Redis,
    name: str,
    crossing_filter: CrossingFilter,
    before: tuple[float, str] | None,
    limit: int,
    end: float,
    inclusive: bool,
) -> list[CrossingRecord]:
    """`newest` of one log."""
    found: list[CrossingRecord] = []
    high, skip = repr(end) if inclusive else f"({end!r}", 0
    while True:
        reply: Any = await client.zrevrangebyscore(
            name, high, repr(crossing_filter.start), start=skip, num=PAGE_MEMBERS, withscores=True
        )
        rows: list[tuple[bytes, float]] = [(row[0], float(row[1])) for row in reply]
        for raw, _ in rows:
            crossing = _decode_or_none(raw)
            if (
                crossing is not None
                and crossing_filter.admits(crossing)
                and (before is None or _get_sort_key(crossing) < before)
            ):
                found.append(crossing)
        # A score may span pages, and members of one score come in the order of their bytes: the page is complete
        # only when the next score has begun.
        if len(rows) < PAGE_MEMBERS or (len(found) > limit and found[limit - 1].ts > rows[-1][1]):
            found.sort(key=_get_sort_key, reverse=True)
            return found[:limit]
        high, skip = _resume(rows, high, skip)


def _get_sort_key(crossing: CrossingRecord) -> tuple[float, str]:
    return crossing.ts, crossing.id


async def _read_range(
    client: redis.asyncio.Redis, name: str, low: str, high: str, skip: int
) -> list[tuple[bytes, float]]:
    reply: Any = await client.zrangebyscore(name, low, high, start=skip, num=PAGE_MEMBERS, withscores=True)
    return [(row[0], float(row[1])) for row in reply]


def _resume(rows: list[tuple[bytes, float]], bound: str, skip: int) -> tuple[str, int]:
    """Where the next page begins: at the last score, behind the members of that score that were read.

    A growing offset alone would make Redis walk the range from its beginning for every page.
    """
    last = rows[-1][1]
    read = sum(1 for _, score in rows if score == last)
    return repr(last), read + (skip if bound == repr(last) else 0)


def _decode_or_none(raw: bytes) -> CrossingRecord | None:
    try:
        return decode_member(raw)
    except msgspec.DecodeError:
        return None


HISTORY_PAGE_MEMBERS = 2000


def iter_history_pages(client: Any, prefix: str = "") -> Iterator[list[CrossingRecord]]:
    """Every crossing at least once, in bounded memory; oldest first within each log.

    What is added meanwhile may or may not be among them.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    for name in LOGS:
        low, skip = "-inf", 0
        while True:
            rows = client.zrangebyscore(
                prefix + name, low, "+inf", start=skip, num=HISTORY_PAGE_MEMBERS, withscores=True
            )
            page = [crossing for raw, _ in rows if (crossing := _decode_or_none(raw)) is not None]
            if page:
                yield page
            if len(rows) < HISTORY_PAGE_MEMBERS:
                break
            # Behind the members of the last moment that were read: a growing offset would walk from the beginning.
            last = repr(float(rows[-1][1]))
            read = sum(1 for _, score in rows if repr(float(score)) == last)
            low, skip = last, read + (skip if low == last else 0)
