"""Crossings and their counters by minute, hour and day, written together in Redis.

The history is two sorted sets scored by event time; a repeated event is the same member. Each series (camera, line,
class, direction) has packed counters per level (`buckets.Level`), one string per chunk of slots. A year of hours takes
35 KB per series and is read with one MGET.

Only the script that adds a new crossing raises a counter, so a redelivered event counts once. The field `frontier` of
the meta hash separates crossings that are counted when added (below it) from those that `backfill` counts later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import redis
from msgspec import Struct, field
from numpy.typing import NDArray

from crowdperf.messaging.schema import LineCrossed
from crowdperf.storage.buckets import DAY, MINUTE, Calendar, Level
from crowdperf.storage.documents import decode_or_none

COUNTERS_VERSION = "1"
FRONTIER_COMPLETE = 1e300
"""Frontier of counters that cover the whole history."""
FRONTIER_BEGIN = -1e300
MAX_KEYS_PER_READ = 4000
"""Keys per MGET, so that other clients are served in between."""

PERSON_LOG = "person_logs"
VEHICLE_LOG = "vehicle_logs"
LOGS = (PERSON_LOG, VEHICLE_LOG)
MAX_TIME_S = 32_503_680_000.0
"""The year 3000 in Unix seconds. Later times are rejected in events and in queries."""

ADD_SCRIPT = """
local meta, series, persons, vehicles = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local known = redis.call('HMGET', meta, 'version', 'zone', 'frontier', 'floor', 'minutes_from')
if not known[1] then
  known = {ARGV[1], ARGV[2], ARGV[3], known[4], known[5]}
  if redis.call('EXISTS', persons, vehicles) > 0 then known[3] = ARGV[4] end
  redis.call('HSET', meta, 'version', known[1], 'zone', known[2], 'frontier', known[3])
end
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then return {-1, 0, 0} end
local frontier, floor, minutes = tonumber(known[3]), tonumber(known[4] or ARGV[4]), tonumber(known[5] or 0)
local added, late = 0, 0
local at = 9
for _ = 1, tonumber(ARGV[5]) do
  local score = tonumber(ARGV[at + 1])
  if score < floor then
    late = late + 1
  elseif redis.call('ZADD', ARGV[at], ARGV[at + 1], ARGV[at + 2]) == 1 then
    added = added + 1
    if score < frontier then
      redis.call('SADD', series, ARGV[at + 3])
      if score >= minutes then
        redis.call('BITFIELD', ARGV[at + 4], 'OVERFLOW', 'SAT', 'INCRBY', 'u16', '#' .. ARGV[at + 5], 1)
      end
      redis.call('BITFIELD', ARGV[at + 6], 'OVERFLOW', 'SAT', 'INCRBY', 'u32', '#' .. ARGV[at + 7], 1)
      redis.call('BITFIELD', ARGV[at + 8], 'OVERFLOW', 'SAT', 'INCRBY', 'u32', '#' .. ARGV[at + 9], 1)
    end
  end
  at = at + 10
end
for n = at, #ARGV do redis.call('XACK', ARGV[6], ARGV[7], ARGV[n]) end
return {added, late, frontier >= tonumber(ARGV[3]) and 1 or 0}
"""
"""Add crossings, count the new ones and acknowledge stream entries, all in one atomic step.

A MULTI would acknowledge even where a full server refuses the rest. KEYS: meta, series, both logs. ARGV: version, zone,
complete, begin, number of crossings, stream, group, (unused). Then ten words per crossing (log, score, member, series,
and key and slot of each level), then stream ids.
"""


class CrossingRecord(Struct, frozen=True, kw_only=True):
    """One member of `person_logs` or `vehicle_logs`, the same in every delivery of the event."""

    id: str
    ts: float
    camera: str
    line: str
    direction: Literal["in", "out"]
    class_name: str = field(name="class")
    track: int


class CountersOutdatedError(Exception):
    """The counters belong to another time zone or version; call `backfill.prepare`."""


class AddResult(NamedTuple):
    """The result of adding a batch."""

    added: int
    """Number of crossings that were new."""
    late: int
    """Number of crossings below the retention floor. They may have been there before, so they are not added."""
    complete: bool
    """True where the counters cover the whole history; False while `backfill.run_step` has work to do."""


class Series(NamedTuple):
    """The subject of one series of counters."""

    camera: str
    line: str
    class_name: str
    direction: str

    @property
    def name(self) -> str:
        """Return `camera/line/class/direction`, escaped, as used in keys."""
        return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in self)

    @classmethod
    def parse(cls, name: str) -> Series:
        """Parse a name of `Series.name`."""
        return cls(*(part.replace("%2F", "/").replace("%25", "%") for part in name.split("/")))


def meta_key(prefix: str = "") -> str:
    """Return the key of a hash: version, zone, frontier, floor of the history, `minutes_from`."""
    return f"{prefix}crowdperf:counts:meta"


def series_key(prefix: str = "") -> str:
    """Return the key of the set of all series names."""
    return f"{prefix}crowdperf:counts:series"


def _chunk_key(level: Level, chunk: int, series: str, prefix: str = "") -> str:
    """Return the key of a string of packed counters."""
    return f"{prefix}crowdperf:counts:{level.name}:{chunk}:{series}"


def add_crossings(
    client: Any,
    calendar: Calendar,
    rows: Sequence[CrossingRecord],
    prefix: str = "",
    acknowledge: tuple[str, str, list[bytes]] | None = None,
) -> AddResult:
    """Add crossings to the history and its counters. Known ones change nothing.

    Args:
        client: Redis client.
        calendar: calendar of the site.
        rows: crossings to add.
        prefix: prefix of every key.
        acknowledge: stream, group and entry ids to acknowledge in the same atomic step.

    Returns:
        The numbers of added and of late crossings.

    Raises:
        CountersOutdatedError: nothing was added; call `backfill.prepare`.
        redis.ConnectionError, redis.TimeoutError: the outcome is unknown; add the same batch again.
        redis.OutOfMemoryError: the server is full; nothing was added.
    """
    stream, group, ids = acknowledge or ("", "", [])
    words: list[Any] = [COUNTERS_VERSION, calendar.name, repr(FRONTIER_COMPLETE), repr(FRONTIER_BEGIN)]
    words += [len(rows), stream, group, ""]
    for row in rows:
        name = get_series(row).name
        words += (get_log_key(row.class_name, prefix), repr(row.ts), encode_member(row), name)
        for level in (MINUTE, calendar.grid, DAY):
            chunk, slot = divmod(calendar.get_slot(level, row.ts), level.slots)
            words += (_chunk_key(level, chunk, name, prefix), slot)
    keys = (meta_key(prefix), series_key(prefix), prefix + PERSON_LOG, prefix + VEHICLE_LOG)
    added, late, complete = client.eval(ADD_SCRIPT, len(keys), *keys, *words, *ids)
    if added < 0:
        raise CountersOutdatedError(calendar.name)
    return AddResult(added, late, bool(complete))


def get_series(row: CrossingRecord) -> Series:
    """Return the series of a crossing."""
    return Series(row.camera, row.line, row.class_name, row.direction)


def tally_crossings(
    calendar: Calendar, rows: Iterable[CrossingRecord], minutes_from: float
) -> dict[tuple[Level, int, Series], dict[int, int]]:
    """Count crossings per slot.

    Args:
        calendar: calendar of the site.
        rows: crossings to count.
        minutes_from: minutes are counted from here on, Unix seconds.

    Returns:
        (level, chunk, series) -> slot -> number of crossings.
    """
    found: dict[tuple[Level, int, Series], dict[int, int]] = {}
    coarse, every = (calendar.grid, DAY), (MINUTE, calendar.grid, DAY)
    for row in rows:
        series = get_series(row)
        for level in coarse if row.ts < minutes_from else every:
            chunk, slot = divmod(calendar.get_slot(level, row.ts), level.slots)
            slots = found.setdefault((level, chunk, series), {})
            slots[slot] = slots.get(slot, 0) + 1
    return found


def stage_tally(pipe: Any, counted: dict[tuple[Level, int, Series], dict[int, int]], prefix: str = "") -> None:
    """Raise counters in a transaction.

    Args:
        pipe: Redis pipeline of the transaction.
        counted: result of `tally_crossings`.
        prefix: prefix of every key.
    """
    for (level, chunk, series), slots in counted.items():
        words: list[Any] = ["BITFIELD", _chunk_key(level, chunk, series.name, prefix), "OVERFLOW", "SAT"]
        for slot, number in slots.items():
            words += ("INCRBY", f"u{8 * level.bytes}", f"#{slot}", number)
        pipe.execute_command(*words)
    names = {series.name for _, _, series in counted}
    if names:
        pipe.sadd(series_key(prefix), *sorted(names))


async def list_series(client: Any, prefix: str = "") -> list[Series]:
    """List every series in order."""
    return sorted(Series.parse(raw.decode()) for raw in await client.smembers(series_key(prefix)))


async def get_covered_from(client: Any, calendar: Calendar, prefix: str = "") -> float | None:
    """Return the start of the minute counters, provided that the counters cover the whole history.

    Args:
        client: redis.asyncio client.
        calendar: calendar of the site.
        prefix: prefix of every key.

    Returns:
        Unix seconds, or None for incomplete or outdated counters.
    """
    version, zone, frontier, minutes = await client.hmget(
        meta_key(prefix), "version", "zone", "frontier", "minutes_from"
    )
    if (
        version != COUNTERS_VERSION.encode()
        or zone != calendar.name.encode()
        or float(frontier or FRONTIER_BEGIN) < FRONTIER_COMPLETE
    ):
        return None
    return float(minutes or 0)


async def read_counters(
    client: Any, level: Level, first: int, end: int, series: Sequence[Series], prefix: str = ""
) -> NDArray[np.int64]:
    """Read the counters of slots [first, end).

    Args:
        client: redis.asyncio client.
        level: resolution of the counters.
        first: first slot.
        end: end of the slots, excluded.
        series: series to read.
        prefix: prefix of every key.

    Returns:
        Counters of shape (len(series), end - first).
    """
    low, high = first // level.slots, (end - 1) // level.slots
    chunks = range(low, high + 1)
    names = [_chunk_key(level, chunk, row.name, prefix) for row in series for chunk in chunks]
    found: list[bytes | None] = []
    for at in range(0, len(names), MAX_KEYS_PER_READ):
        found += await client.mget(names[at : at + MAX_KEYS_PER_READ])
    whole = bytearray(len(names) * level.slots * level.bytes)
    for place, raw in enumerate(found):
        if raw:
            offset = place * level.slots * level.bytes
            whole[offset : offset + len(raw)] = raw
    counters = np.frombuffer(whole, dtype=f">u{level.bytes}").reshape(len(series), len(chunks) * level.slots)
    return counters[:, first - low * level.slots : end - low * level.slots].astype(np.int64)


def expire_chunks(client: redis.Redis, level: Level, before_slot: int, prefix: str = "") -> int:
    """Remove chunks that end before a slot.

    Args:
        client: Redis client.
        level: resolution of the counters.
        before_slot: first slot to keep.
        prefix: prefix of every key.

    Returns:
        Number of removed chunks.
    """
    pattern = _chunk_key(level, 0, "", prefix).rpartition("0:")[0]
    gone = []
    for name in client.scan_iter(match=f"{_escape_pattern(pattern)}*", count=1000):
        chunk = name.decode()[len(pattern) :].partition(":")[0]
        if (int(chunk) + 1) * level.slots <= before_slot:
            gone.append(name)
    for at in range(0, len(gone), 500):
        client.unlink(*gone[at : at + 500])
    return len(gone)


def _escape_pattern(text: str) -> str:
    """Escape the wildcards of SCAN."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in text)


def get_log_key(class_name: str, prefix: str = "") -> str:
    """Return the key of the sorted set for this class."""
    return prefix + (PERSON_LOG if class_name == "person" else VEHICLE_LOG)


def build_crossing(event: LineCrossed) -> CrossingRecord:
    """Build the record of an event."""
    return CrossingRecord(**{name: getattr(event, name) for name in CrossingRecord.__struct_fields__})


def encode_member(crossing: CrossingRecord) -> bytes:
    """Encode as canonical JSON: fixed field order and no spaces, so that a redelivery is the same member."""
    return msgspec.json.encode(crossing)


def decode_member(raw: bytes) -> CrossingRecord | None:
    """Decode a member; return None for one of another form."""
    return decode_or_none(raw, CrossingRecord)
