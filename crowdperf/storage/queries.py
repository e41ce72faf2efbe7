"""Queries of the history: counts over a range, crossings by page, and the whole history for copies. Read-only."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import redis.asyncio
from numpy.typing import NDArray

from crowdperf.storage import counts
from crowdperf.storage.buckets import HOUR, Bucket, Calendar, RangePart
from crowdperf.storage.counts import LOGS, PERSON_LOG, VEHICLE_LOG, CounterChunk, CrossingRecord, Series, decode_member

PAGE_MEMBERS = 1000
"""Members per ZRANGEBYSCORE, so that other requests are served in between."""
HISTORY_PAGE_MEMBERS = 2000
MAX_KEYS_PER_READ = 1000
"""Keys per MGET, 3 MB at most, so that other clients are served in between and the memory stays bounded."""
GROUP_FIELDS = ("camera", "line", "class", "direction")
"""Fields that counts can be grouped by, in the order of `counts.Series`."""
GroupKey = tuple[tuple[str, ...], int]
"""Values of the grouped fields, and the start of the bucket in Unix seconds (0 without buckets)."""


class TooManyGroupsError(Exception):
    """A result has more groups than the caller takes."""


class CrossingFilter(NamedTuple):
    """Filter of crossings in the range [start, end), Unix seconds. An empty text admits every value."""

    start: float
    end: float
    camera: str = ""
    line: str = ""
    class_name: str = ""
    direction: str = ""
    cameras: frozenset[str] | None = None
    """Only these cameras, in addition to `camera`; None for all."""

    def admits(self, crossing: CrossingRecord | Series) -> bool:
        """Return whether a crossing or a series passes the filter. The query itself applies the range."""
        return (
            (not self.camera or crossing.camera == self.camera)
            and (not self.line or crossing.line == self.line)
            and (not self.class_name or crossing.class_name == self.class_name)
            and (not self.direction or crossing.direction == self.direction)
            and (self.cameras is None or crossing.camera in self.cameras)
        )

    def get_logs(self) -> tuple[str, ...]:
        """Return the sorted sets that can hold matching crossings."""
        if not self.class_name:
            return LOGS
        return (PERSON_LOG,) if self.class_name == "person" else (VEHICLE_LOG,)


async def iter_crossings(
    client: redis.asyncio.Redis, crossing_filter: CrossingFilter, prefix: str = "", log: str | None = None
) -> AsyncIterator[CrossingRecord]:
    """Yield every matching crossing, oldest first within each log.

    Members of another form are skipped, so that manual writes to Redis do not break the history.

    Args:
        client: redis.asyncio client.
        crossing_filter: which crossings.
        prefix: prefix of every key.
        log: only this log; None for all.

    Yields:
        The crossings.
    """
    for name in crossing_filter.get_logs() if log is None else (log,):
        start, end = repr(crossing_filter.start), f"({crossing_filter.end!r}"
        async for rows in _iter_pages(client.zrangebyscore, prefix + name, start, end):
            for raw, _ in rows:
                crossing = decode_member(raw)
                if crossing is not None and crossing_filter.admits(crossing):
                    yield crossing


async def _iter_pages(
    read: Callable[..., Any], name: str, first: str, last: str
) -> AsyncIterator[list[tuple[bytes, float]]]:
    """Yield pages of (member, score) from one bound to the other."""
    skip = 0
    while True:
        reply = await read(name, first, last, start=skip, num=PAGE_MEMBERS, withscores=True)
        rows = [(row[0], float(row[1])) for row in reply]
        yield rows
        if len(rows) < PAGE_MEMBERS:
            return
        first, skip = _resume(rows, first, skip)


async def count_crossings(
    client: redis.asyncio.Redis,
    crossing_filter: CrossingFilter,
    fields: Sequence[str],
    bucket: Bucket | None,
    calendar: Calendar,
    prefix: str = "",
    max_groups: int | None = None,
) -> dict[GroupKey, int]:
    """Count matching crossings per group.

    Counters serve the whole slots of the range. Crossings are read for its edges, and for all of it while the counters
    do not cover the history (after an update of an older installation).

    Args:
        client: redis.asyncio client.
        crossing_filter: which crossings.
        fields: some of `GROUP_FIELDS`.
        bucket: width of the time buckets; None for one total.
        calendar: calendar of the site.
        prefix: prefix of every key.
        max_groups: raise for a result of more groups; None takes any number.

    Returns:
        Group -> count, without empty groups.

    Raises:
        TooManyGroupsError: The result has more than `max_groups`.
    """
    minutes_from = await _get_covered_from(client, calendar, prefix)
    if minutes_from is None:
        parts = [RangePart(None, 0, 0, crossing_filter.start, crossing_filter.end)]
        series = []
    else:
        parts = calendar.split_range(crossing_filter.start, crossing_filter.end, bucket, minutes_from)
        known: Any = await client.smembers(counts.series_key(prefix))
        series = sorted(filter(crossing_filter.admits, (Series.parse(raw.decode()) for raw in known)))
    places = [GROUP_FIELDS.index(name) for name in fields]
    # Series of one group follow each other, so that a page of them is summed at once.
    members = sorted((tuple(row[place] for place in places), row) for row in series)
    totals: Counter[GroupKey] = Counter()

    def add(group: GroupKey, count: int) -> None:
        totals[group] += count
        if max_groups is not None and len(totals) > max_groups:
            raise TooManyGroupsError

    for part in parts:
        if part.level is None:
            part_filter = crossing_filter._replace(start=part.start, end=part.stop)
            async for row in iter_crossings(client, part_filter, prefix):
                values = counts.get_series(row)
                start = calendar.get_bucket_start(bucket, row.ts) if bucket else 0
                add((tuple(values[place] for place in places), start), 1)
            continue
        starts, edges = _find_bucket_edges(part, bucket, calendar)
        chunks = (part.end - 1) // part.level.slots - part.first // part.level.slots + 1
        step = max(1, MAX_KEYS_PER_READ // chunks)
        for at in range(0, len(members), step):
            groups, page = zip(*members[at : at + step])
            counters = await _read_counters(client, part, page, prefix)
            for group, count in _sum_counters(counters, groups, starts, edges):
                add(group, count)
    return totals


async def _get_covered_from(client: Any, calendar: Calendar, prefix: str) -> float | None:
    """Return where the minute counters start; None while the counters do not cover the whole history."""
    version, zone, frontier, minutes = await client.hmget(
        counts.meta_key(prefix), "version", "zone", "frontier", "minutes_from"
    )
    if (
        version != counts.COUNTERS_VERSION.encode()
        or zone != calendar.name.encode()
        or float(frontier or counts.FRONTIER_BEGIN) < counts.FRONTIER_COMPLETE
    ):
        return None
    return float(minutes or 0)


async def _read_counters(client: Any, part: RangePart, series: Sequence[Series], prefix: str) -> NDArray[np.int64]:
    """Read the counters of a part with a level; their shape is (series, slots)."""
    level, first, end = part.level, part.first, part.end
    assert level is not None
    low, high = first // level.slots, (end - 1) // level.slots
    chunks = range(low, high + 1)
    names = [CounterChunk(level, chunk, row.name).get_key(prefix) for row in series for chunk in chunks]
    found: list[bytes | None] = await client.mget(names)
    whole = bytearray(len(names) * level.slots * level.bytes)
    for place, raw in enumerate(found):
        if raw:
            offset = place * level.slots * level.bytes
            whole[offset : offset + len(raw)] = raw
    counters = np.frombuffer(whole, dtype=f">u{level.bytes}").reshape(len(series), len(chunks) * level.slots)
    return counters[:, first - low * level.slots : end - low * level.slots].astype(np.int64)


def _sum_counters(
    counters: NDArray[np.int64], names: Sequence[tuple[str, ...]], starts: list[int], edges: list[int]
) -> Iterator[tuple[GroupKey, int]]:
    """Yield sums per group of counters (series, slots), without zeros; equal `names` are neighbours."""
    first_rows = {name: row for row, name in reversed(list(enumerate(names)))}
    groups = sorted(first_rows, key=first_rows.__getitem__)
    by_group = np.add.reduceat(counters, [first_rows[group] for group in groups], axis=0)
    sums = np.add.reduceat(by_group, edges, axis=1)
    for row, column in zip(*(axis.tolist() for axis in np.nonzero(sums))):
        yield (groups[row], starts[column]), int(sums[row, column])


def _find_bucket_edges(part: RangePart, bucket: Bucket | None, calendar: Calendar) -> tuple[list[int], list[int]]:
    """Return the start of each bucket of a part, and the slot where it begins."""
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
    """Read one page of matching crossings, newest first.

    The order is (ts, id) descending over both logs, so that (ts, id) of the last row continues the list.

    Args:
        client: redis.asyncio client.
        crossing_filter: which crossings.
        before: only crossings older than this (ts, id); None for the first page.
        limit: page size.
        prefix: prefix of every key.

    Returns:
        At most `limit` crossings.
    """
    pages = [
        await _read_newest_in_log(client, prefix + name, crossing_filter, before, limit)
        for name in crossing_filter.get_logs()
    ]
    return list(heapq.merge(*pages, key=_get_sort_key, reverse=True))[:limit]


async def _read_newest_in_log(
    client: redis.asyncio.Redis,
    name: str,
    crossing_filter: CrossingFilter,
    before: tuple[float, str] | None,
    limit: int,
) -> list[CrossingRecord]:
    """Read the page of `read_newest` from one log."""
    high = f"({crossing_filter.end!r}"
    if before is not None and before[0] < crossing_filter.end:
        high = repr(before[0])
    found: list[CrossingRecord] = []
    async for rows in _iter_pages(client.zrevrangebyscore, name, high, repr(crossing_filter.start)):
        for raw, _ in rows:
            crossing = decode_member(raw)
            if crossing is None or not crossing_filter.admits(crossing):
                continue
            if before is None or _get_sort_key(crossing) < before:
                found.append(crossing)
        # A score may span pages, and its members are ordered by bytes. Complete only when the next score begins.
        if rows and len(found) > limit and found[limit - 1].ts > rows[-1][1]:
            break
    return sorted(found, key=_get_sort_key, reverse=True)[:limit]


def _get_sort_key(crossing: CrossingRecord) -> tuple[float, str]:
    return crossing.ts, crossing.id


def _resume(rows: list[tuple[bytes, float]], bound: str, skip: int) -> tuple[str, int]:
    """Return where the next page starts: the last score, and how many of its members were read.

    A growing offset alone would make Redis walk the range from its start for every page.
    """
    last = rows[-1][1]
    read = sum(1 for _, score in rows if score == last)
    return repr(last), read + (skip if bound == repr(last) else 0)


def iter_history_pages(client: Any, prefix: str = "") -> Iterator[list[CrossingRecord]]:
    """Yield every crossing at least once in bounded memory, oldest first within each log.

    Crossings that are added meanwhile may be missing.
    """
    for name in LOGS:
        low, skip = "-inf", 0
        while True:
            reply = client.zrangebyscore(
                prefix + name, low, "+inf", start=skip, num=HISTORY_PAGE_MEMBERS, withscores=True
            )
            rows = [(row[0], float(row[1])) for row in reply]
            page = [crossing for raw, _ in rows if (crossing := decode_member(raw)) is not None]
            if page:
                yield page
            if len(rows) < HISTORY_PAGE_MEMBERS:
                break
            low, skip = _resume(rows, low, skip)
