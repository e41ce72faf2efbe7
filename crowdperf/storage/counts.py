"""Counters of crossings by minute, hour and day: written together with the crossings, read instead of them.

Each series (camera, line, class, direction) has, per level, strings of packed counters (`buckets.Level`), one per chunk
of slots. A year of hours of one series is 35 KB; reading it is one MGET and numpy does the sums.

A counter is raised only by the script that adds the crossing, and only when the crossing is new, so that an event that
comes twice counts once. `frontier` in the meta hash tells how far the counters cover the history: crossings below it
are counted when they are added, those above it when the back-fill gets there (`backfill`).

The history of crossings: two sorted sets scored by event time, members that are the same however often written.
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

COUNTERS_VERSION = "1"
FRONTIER_COMPLETE = 1e300
"""The frontier of counters that cover everything."""
FRONTIER_BEGIN = -1e300
MAX_KEYS_PER_READ = 4000
"""Keys per MGET: other clients get their turn between two of them."""

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
"""Adds crossings, counts the new ones and acknowledges stream entries: all or nothing, since scripts are atomic.

Not a MULTI: there, an acknowledgement would go through although a full server refuses the script beside it.
KEYS: meta, series, both logs. ARGV: version, zone, complete, begin, number of crossings, stream, group, (unused),
then ten words per crossing (log, score, member, series, and key and slot of each level), then stream ids.
"""


class CountersOutdatedError(Exception):
    """The counters were made for another zone or version: `backfill.prepare` has to be called."""


class AddResult(NamedTuple):
    """What became of a batch."""

    added: int
    """Crossings that were not in the history before."""
    late: int
    """Crossings older than what retention has removed: they may have been there, so they are not added."""
    complete: bool
    """Whether the counters cover the whole history; if not, `backfill.step` has work to do."""


class Series(NamedTuple):
    """What one row of counters is about."""

    camera: str
    line: str
    class_name: str
    direction: str

    @property
    def name(self) -> str:
        """As keys hold it: `camera/line/class/direction`."""
        return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in self)

    @classmethod
    def parse(cls, name: str) -> Series:
        """The series of a name."""
        return cls(*(part.replace("%2F", "/").replace("%25", "%") for part in name.split("/")))


def meta_key(prefix: str = "") -> str:
    """Hash: version, zone, frontier, `floor` (crossings before it were removed), `minutes_from`."""
    return f"{prefix}crowdperf:counts:meta"


def series_key(prefix: str = "") -> str:
    """Set of the names of all series."""
    return f"{prefix}crowdperf:counts:series"


def chunk_key(level: Level, chunk: int, series: str, prefix: str = "") -> str:
    """String of packed counters."""
    return f"{prefix}crowdperf:counts:{level.name}:{chunk}:{series}"


def add_crossings(
    client: Any,
    calendar: Calendar,
    rows: Sequence[CrossingRecord],
    prefix: str = "",
    acknowledge: tuple[str, str, list[bytes]] | None = None,
) -> AddResult:
    """Add crossings to the history and its counters; those that are there already change nothing.

    Args:
        acknowledge: stream, group and entry ids, acknowledged in the same atomic step.

    Raises:
        ZoneChanged: nothing was added; call `backfill.prepare`.
        redis.ConnectionError, redis.TimeoutError: it may or may not have happened; add the same again.
        redis.OutOfMemoryError: the server is full; nothing was added.
    """
    stream, group, ids = acknowledge or ("", "", [])
    words: list[Any] = [
        COUNTERS_VERSION,
        calendar.name,
        repr(FRONTIER_COMPLETE),
        repr(FRONTIER_BEGIN),
        len(rows),
        stream,
        group,
        "",
    ]
    for row in rows:
        name = get_series(row).name
        words += (get_log_key(row.class_name, prefix), repr(row.ts), encode_member(row), name)
        for level in (MINUTE, calendar.grid, DAY):
            chunk, slot = divmod(calendar.get_slot(level, row.ts), level.slots)
            words += (chunk_key(level, chunk, name, prefix), slot)
    keys = (meta_key(prefix), series_key(prefix), prefix + PERSON_LOG, prefix + VEHICLE_LOG)
    added, late, complete = client.eval(ADD_SCRIPT, len(keys), *keys, *words, *ids)
    if added < 0:
        raise CountersOutdatedError(calendar.name)
    return AddResult(added, late, bool(complete))


def get_series(row: CrossingRecord) -> Series:
    """The series that a crossing belongs to."""
    return Series(row.camera, row.line, row.class_name, row.direction)


def tally_crossings(
    calendar: Calendar, rows: Iterable[CrossingRecord], minutes_from: float
) -> dict[tuple[Level, int, Series], dict[int, int]]:
    """(level, chunk, series) -> slot -> how many of `rows` fall there; minutes only from `minutes_from` on."""
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
    """Raise the counters in a transaction."""
    for (level, chunk, series), slots in counted.items():
        words: list[Any] = ["BITFIELD", chunk_key(level, chunk, series.name, prefix), "OVERFLOW", "SAT"]
        for slot, number in slots.items():
            words += ("INCRBY", f"u{8 * level.bytes}", f"#{slot}", number)
        pipe.execute_command(*words)
    names = {series.name for _, _, series in counted}
    if names:
        pipe.sadd(series_key(prefix), *sorted(names))


async def list_series(client: Any, prefix: str = "") -> list[Series]:
    """Every series there is, in order."""
    return sorted(Series.parse(raw.decode()) for raw in await client.smembers(series_key(prefix)))


async def get_covered_from(client: Any, calendar: Calendar, prefix: str = "") -> float | None:
    """From when on minutes are kept, where the counters cover the whole history; else None."""
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
    """Counters of slots [first, end), shape (series, end - first)."""
    low, high = first // level.slots, (end - 1) // level.slots
    chunks = range(low, high + 1)
    names = [chunk_key(level, chunk, row.name, prefix) for row in series for chunk in chunks]
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
    """Remove chunks that lie wholly before the slot; returns how many."""
    pattern = chunk_key(level, 0, "", prefix).rpartition("0:")[0]
    gone = []
    for name in client.scan_iter(match=f"{_escape_pattern(pattern)}*", count=1000):
        chunk = name.decode()[len(pattern) :].partition(":")[0]
        if (int(chunk) + 1) * level.slots <= before_slot:
            gone.append(name)
    for at in range(0, len(gone), 500):
        client.unlink(*gone[at : at + 500])
    return len(gone)


def _escape_pattern(text: str) -> str:
    """Without the meaning that SCAN gives to some characters."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in text)


PERSON_LOG = "person_logs"
VEHICLE_LOG = "vehicle_logs"
LOGS = (PERSON_LOG, VEHICLE_LOG)
MAX_TIME_S = 32_503_680_000.0
"""The year 3000 in Unix seconds: a later time is no time, neither of an event nor of a question."""


class CrossingRecord(Struct, frozen=True, kw_only=True):
    """One member of `person_logs` or `vehicle_logs`: nothing in it varies between deliveries of the same event."""

    id: str
    ts: float
    camera: str
    line: str
    direction: Literal["in", "out"]
    class_name: str = field(name="class")
    track: int


def get_log_key(class_name: str, prefix: str = "") -> str:
    """The sorted set that keeps crossings of this class."""
    return prefix + (PERSON_LOG if class_name == "person" else VEHICLE_LOG)


def build_crossing(event: LineCrossed) -> CrossingRecord:
    """What the history keeps of an event."""
    return CrossingRecord(
        id=event.id,
        ts=event.ts,
        camera=event.camera,
        line=event.line,
        direction=event.direction,
        class_name=event.class_name,
        track=event.track,
    )


def encode_member(crossing: CrossingRecord) -> bytes:
    """Canonical JSON: fixed field order, no spaces, so that a redelivered event is the same member."""
    return msgspec.json.encode(crossing)


def decode_member(raw: bytes) -> CrossingRecord:
    """The crossing of a member.

    Raises:
        msgspec.DecodeError: it is no such member.
    """
    return msgspec.json.decode(raw, type=CrossingRecord)
