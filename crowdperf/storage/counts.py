"""Crossings and their counters by minute, hour and day, written together in Redis.

The history is two sorted sets scored by event time; a repeated event is the same member. Each series (camera, line,
class, direction) has packed counters per level (`buckets.Level`), one string per chunk of slots. A year of hours takes
35 KB per series and is read with one MGET.

Only the script that adds a new crossing raises a counter, so a redelivered event counts once. The field `frontier` of
the meta hash separates crossings that are counted when added (below it) from those that `backfill` counts later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct, field

from crowdperf.messaging.schema import LineCrossed
from crowdperf.storage.buckets import DAY, MINUTE, Calendar, Level
from crowdperf.storage.documents import decode_or_none

COUNTERS_VERSION = "1"
FRONTIER_COMPLETE = 1e300
"""Frontier of counters that cover the whole history."""
FRONTIER_BEGIN = -1e300

PERSON_LOG = "person_logs"
VEHICLE_LOG = "vehicle_logs"
LOGS = (PERSON_LOG, VEHICLE_LOG)

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


class CounterChunk(NamedTuple):
    """One string of packed counters."""

    level: Level
    number: int
    series: str

    def get_key(self, prefix: str = "") -> str:
        """Return the key of the string."""
        return f"{prefix}crowdperf:counts:{self.level.name}:{self.number}:{self.series}"


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
            words += (CounterChunk(level, chunk, name).get_key(prefix), slot)
    keys = (meta_key(prefix), series_key(prefix), prefix + PERSON_LOG, prefix + VEHICLE_LOG)
    added, late, complete = client.eval(ADD_SCRIPT, len(keys), *keys, *words, *ids)
    if added < 0:
        raise CountersOutdatedError(calendar.name)
    return AddResult(added, late, bool(complete))


def get_series(row: CrossingRecord) -> Series:
    """Return the series of a crossing."""
    return Series(row.camera, row.line, row.class_name, row.direction)


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
