"""Counters for crossings that were recorded without them, or for another time zone.

Each step counts one page of the history and moves the frontier, in one transaction. The transaction fails when another
client has changed the history meanwhile. Recording continues during the backfill, and a restart resumes at the
frontier.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import redis

from crowdperf.storage import counts
from crowdperf.storage.buckets import DAY, HOUR, MINUTE, QUARTER, Calendar
from crowdperf.storage.counts import LOGS, CounterChunk, CrossingRecord, meta_key

PAGE_CROSSINGS = 4000
"""Crossings per log and step."""
MINUTE_COUNTS_DAYS = 7
"""Minutes of an older history are counted for these last days only: retention removes them soon."""

Tally = dict[CounterChunk, dict[int, int]]
"""Chunk -> slot -> number of crossings."""

log = logging.getLogger(__name__)


def prepare(client: Any, calendar: Calendar, prefix: str = "") -> bool:
    """Bring the counters to this version and time zone.

    Counters of another zone are dropped where their crossings exist and can be counted again. Older ones, whose
    crossings retention has removed, stay.

    Args:
        client: Redis client.
        calendar: calendar of the site.
        prefix: prefix of every key.

    Returns:
        True where `run_step` has work to do.

    Raises:
        redis.ConnectionError, redis.TimeoutError: try again; nothing is half done.
    """
    meta = meta_key(prefix)

    def run_transaction(pipe: Any) -> bool:
        version, zone, frontier, floor = pipe.hmget(meta, "version", "zone", "frontier", "floor")
        if version == counts.COUNTERS_VERSION.encode() and zone == calendar.name.encode():
            pipe.multi()
            return float(frontier) < counts.FRONTIER_COMPLETE
        names = list(client.scan_iter(match=meta.replace(":meta", ":*"), count=1000)) if version else []
        empty = not client.exists(*(prefix + name for name in LOGS))
        newest = max((client.zrange(prefix + name, -1, -1, withscores=True) or [(b"", 0.0)])[0][1] for name in LOGS)
        start = float(floor) if floor else counts.FRONTIER_BEGIN
        pipe.multi()
        if version:
            log.warning("rebuilding the counters for the time zone %s (they were for %s)", calendar.name, zone.decode())
            _stage_forget(pipe, names, calendar, start, prefix)
        whole = counts.FRONTIER_COMPLETE if empty else start
        pipe.hset(meta, mapping={"version": counts.COUNTERS_VERSION, "zone": calendar.name, "frontier": repr(whole)})
        if not empty:
            pipe.hset(meta, "minutes_from", repr(newest // 86_400 * 86_400 - MINUTE_COUNTS_DAYS * 86_400))
        return not empty

    return bool(client.transaction(run_transaction, meta, value_from_callable=True))


def _stage_forget(pipe: Any, names: list[bytes], calendar: Calendar, start: float, prefix: str) -> None:
    """Remove every counter at or after `start`."""
    levels = {level.name: level for level in (MINUTE, HOUR, QUARTER, DAY)}
    head = len(meta_key(prefix)) - len("meta")
    for name in names:
        kind, _, rest = name.decode()[head:].partition(":")
        level = levels.get(kind)
        if level is None:
            continue
        first = int(rest.partition(":")[0]) * level.slots
        # What lies before `start` in its slot is too old to be counted again, and is lost.
        cut = calendar.get_slot(level, start) if start > 0 else 0
        if first >= cut:
            pipe.unlink(name)
        elif first + level.slots > cut:
            pipe.setrange(name, (cut - first) * level.bytes, bytes((first + level.slots - cut) * level.bytes))


def run_step(client: Any, calendar: Calendar, prefix: str = "") -> float:
    """Count one page of the history.

    After a concurrent change nothing is counted and the frontier stays. An inner retry loop might never end while
    crossings arrive.

    Args:
        client: Redis client.
        calendar: calendar of the site.
        prefix: prefix of every key.

    Returns:
        The frontier, `counts.FRONTIER_COMPLETE` once the whole history is counted.

    Raises:
        redis.ConnectionError, redis.TimeoutError: try again.
    """
    meta = meta_key(prefix)
    with client.pipeline(transaction=True) as pipe:
        pipe.watch(meta, *(prefix + name for name in LOGS))
        version, zone, raw, minutes = pipe.hmget(meta, "version", "zone", "frontier", "minutes_from")
        if version != counts.COUNTERS_VERSION.encode() or zone != calendar.name.encode():
            return counts.FRONTIER_BEGIN
        frontier = float(raw)
        if frontier >= counts.FRONTIER_COMPLETE:
            return counts.FRONTIER_COMPLETE
        rows, behind = _read_page(pipe, frontier, prefix)
        pipe.multi()
        _stage_tally(pipe, _tally_crossings(calendar, rows, float(minutes or 0)), prefix)
        pipe.hset(meta, "frontier", repr(behind))
        try:
            pipe.execute()
        except redis.WatchError:
            return frontier
    return behind


def _tally_crossings(calendar: Calendar, rows: Iterable[CrossingRecord], minutes_from: float) -> Tally:
    """Count crossings per slot; minutes from `minutes_from` on only."""
    found: Tally = {}
    coarse, every = (calendar.grid, DAY), (MINUTE, calendar.grid, DAY)
    for row in rows:
        series = counts.get_series(row).name
        for level in coarse if row.ts < minutes_from else every:
            chunk, slot = divmod(calendar.get_slot(level, row.ts), level.slots)
            slots = found.setdefault(CounterChunk(level, chunk, series), {})
            slots[slot] = slots.get(slot, 0) + 1
    return found


def _stage_tally(pipe: Any, counted: Tally, prefix: str) -> None:
    """Raise counters in a transaction."""
    for chunk, slots in counted.items():
        words: list[Any] = ["BITFIELD", chunk.get_key(prefix), "OVERFLOW", "SAT"]
        for slot, number in slots.items():
            words += ("INCRBY", f"u{8 * chunk.level.bytes}", f"#{slot}", number)
        pipe.execute_command(*words)
    names = {chunk.series for chunk in counted}
    if names:
        pipe.sadd(counts.series_key(prefix), *sorted(names))


def _read_page(pipe: Any, frontier: float, prefix: str) -> tuple[list[CrossingRecord], float]:
    """Read crossings from the frontier on; return them and the new frontier."""
    page = PAGE_CROSSINGS
    while True:
        rows, behind = _read_rows(pipe, frontier, page, prefix)
        if behind > frontier:
            return rows, behind
        # All rows share one timestamp: only a larger page gets past it.
        page *= 2


def _read_rows(pipe: Any, frontier: float, page: int, prefix: str) -> tuple[list[CrossingRecord], float]:
    """Read at most `page` crossings per log; return them and the moment up to which they are complete."""
    found = []
    behind = counts.FRONTIER_COMPLETE
    for name in LOGS:
        rows = pipe.zrangebyscore(prefix + name, repr(frontier), "+inf", start=0, num=page, withscores=True)
        if len(rows) == page:
            # More members may share the last timestamp: the frontier stays before all of them.
            behind = min(behind, float(rows[-1][1]))
        found += rows
    crossings = [counts.decode_member(raw) for raw, score in found if float(score) < behind]
    return [row for row in crossings if row is not None], behind
