"""Visits, people and the watch-list in Redis. Each change is a compare-and-set with its event and audit entry.

A change names the version that it is based on. The web process and the worker change the same visits; the second one
with an old version changes nothing and learns of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from crowdperf.messaging import codec
from crowdperf.messaging.schema import AuditEntry, Event
from crowdperf.messaging.streams import AUDIT, EVENTS, stream_key
from crowdperf.visitors.visit import LIVE_STATES, Person, Visit, WatchListEntry

T = TypeVar("T", bound=Struct)

CHANGE_SCRIPT = """
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return 0 end
local fields = cjson.decode(ARGV[2])
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
if ARGV[5] == '1' then redis.call('SADD', KEYS[3], ARGV[4]) else redis.call('SREM', KEYS[3], ARGV[4]) end
for _, row in ipairs(cjson.decode(ARGV[6])) do redis.call('XADD', KEYS[3 + row[1]], '*', unpack(row[2])) end
return 1
"""
EXPIRE_SCRIPT = """
local removed = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 200)) do
  local visit = ARGV[2] .. id
  local person = redis.call('HGET', visit, 'person')
  local code = redis.call('HGET', visit, 'code')
  if redis.call('SISMEMBER', KEYS[2], id) == 0 then
    redis.call('HSET', visit, 'person', '', 'host', '', 'host_email', '', 'purpose', '', 'reason', '', 'code', '')
    redis.call('ZREM', KEYS[1], id)
    if code then redis.call('HDEL', KEYS[3], code) end
    if person and person ~= '' then
      redis.call('SREM', ARGV[4] .. person, id)
      if redis.call('SCARD', ARGV[4] .. person) == 0 then redis.call('DEL', ARGV[3] .. person) end
    end
    removed = removed + 1
  end
end
return removed
"""
"""Erase personal data of visits that ended before a time, and people without a visit."""
FORGET_SCRIPT = """
local rows = redis.call('HGETALL', KEYS[1])
for at = 1, #rows, 2 do
  if cjson.decode(rows[at + 1]).added_at < tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], rows[at]) end
end
"""
"""Remove entries of the watch-list from before a time."""


class VisitKeys(Struct, frozen=True):
    """The keys of the visitors' store, and what is removed below them."""

    prefix: str = ""

    def _build(self, name: str) -> str:
        return f"{self.prefix}crowdperf:visitors:{name}"

    def visit(self, visit: str) -> str:
        """Return the key of a visit's hash."""
        return self._build(f"visit:{visit}")

    def person(self, person: str) -> str:
        """Return the key of a person's hash."""
        return self._build(f"person:{person}")

    def visits_of(self, person: str) -> str:
        """Return the key of the set of a person's visits."""
        return self._build(f"visits-of:{person}")

    @property
    def index(self) -> str:
        """Return the key of the visits with personal data, scored by expected start."""
        return self._build("index")

    @property
    def live(self) -> str:
        """Return the key of the set of visits that are not over."""
        return self._build("live")

    @property
    def codes(self) -> str:
        """Return the key of a hash: badge code -> visit."""
        return self._build("codes")

    @property
    def listings(self) -> str:
        """Return the key of the watch-list."""
        return self._build("listings")

    def stage_expiry(self, pipe: Any, before: float) -> None:
        """Erase personal data of up to 200 finished visits that began before `before`."""
        prefixes = (self.visit(""), self.person(""), self.visits_of(""))
        pipe.eval(EXPIRE_SCRIPT, 3, self.index, self.live, self.codes, repr(before), *prefixes)

    def stage_forget(self, pipe: Any, before: float) -> None:
        """Remove entries of the watch-list that were added before `before`."""
        pipe.eval(FORGET_SCRIPT, 1, self.listings, repr(before))


class VisitUpdate(Struct, frozen=True, kw_only=True):
    """A change of a visit, stored with its events if the version still matches."""

    visit: str
    expected_version: int
    """0 for a new visit."""
    fields: dict[str, Any]
    """Name -> new value."""
    expected_from: float
    is_live: bool
    events: list[Event]


def stage_new(
    pipe: Any, visit: Visit, person: Person, event: Event, entries: list[AuditEntry], prefix: str = ""
) -> None:
    """Store a new visit and its person. An existing visit stays, and only its person is updated.

    Args:
        pipe: Redis pipeline of the transaction.
        visit: the new visit.
        person: its person.
        event: event to publish.
        entries: audit entries to write.
        prefix: prefix of every key.
    """
    keys = VisitKeys(prefix)
    pipe.hset(keys.person(person.id), items=to_hash_fields(person))
    pipe.sadd(keys.visits_of(person.id), visit.id)
    pipe.hset(keys.codes, visit.code, visit.id)
    stage_update(pipe, _replace_whole(visit, 0, [event]), entries, prefix)


def _replace_whole(visit: Visit, expected_version: int, events: list[Event]) -> VisitUpdate:
    return VisitUpdate(
        visit=visit.id,
        expected_version=expected_version,
        fields=msgspec.to_builtins(visit),
        expected_from=visit.expected_from,
        is_live=visit.state in LIVE_STATES,
        events=events,
    )


def stage_update(pipe: Any, update: VisitUpdate, entries: Sequence[AuditEntry] = (), prefix: str = "") -> Any:
    """Store a change of a visit, if the stored version matches.

    Args:
        pipe: Redis client or pipeline.
        update: the change.
        entries: audit entries to write.
        prefix: prefix of every key.

    Returns:
        The result of `eval`: 1 when stored, 0 when another client was first.
    """
    keys = VisitKeys(prefix)
    messages: list[tuple[int, list[str]]] = [(1, _flatten(codec.encode(EVENTS, event))) for event in update.events]
    messages += [(2, _flatten(codec.encode(AUDIT, entry))) for entry in entries]
    streams = (stream_key(EVENTS, prefix=prefix), stream_key(AUDIT, prefix=prefix))
    return pipe.eval(
        CHANGE_SCRIPT,
        *(5, keys.visit(update.visit), keys.index, keys.live, *streams),
        *(str(update.expected_version), msgspec.json.encode(_flatten(update.fields)), repr(update.expected_from)),
        *(update.visit, "1" if update.is_live else "0", msgspec.json.encode(messages)),
    )


def load_live(client: Any, prefix: str = "") -> list[Visit]:
    """Load the visits that are not over; `client` is a blocking one."""
    keys = VisitKeys(prefix)
    with client.pipeline(transaction=False) as pipe:
        for name in sorted(client.smembers(keys.live)):
            pipe.hgetall(keys.visit(name.decode()))
        rows = (from_hash_fields(fields, Visit) for fields in pipe.execute())
    return [visit for visit in rows if visit is not None]


def to_hash_fields(row: Struct) -> list[str]:
    """Flatten a Struct to names and values of a Redis hash."""
    return [text for name, value in msgspec.to_builtins(row).items() for text in (name, _to_text(value))]


def from_hash_fields(fields: dict[bytes, bytes], kind: type[T]) -> T | None:
    """Decode the Struct of a hash; return None for an empty or foreign one."""
    if not fields:
        return None
    try:
        text = {name.decode(): value.decode() for name, value in fields.items()}
        return msgspec.convert(text, kind, strict=False)
    except (msgspec.ValidationError, UnicodeDecodeError):
        return None


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _flatten(fields: dict[Any, Any]) -> list[str]:
    return [text for name, value in fields.items() for text in (str(name), _to_text(value))]


class AuditedStore:
    """Base of the visitors' stores of the web process. Callers handle outages of Redis."""

    def __init__(self, client: Any, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix
        self.keys = VisitKeys(prefix)

    @contextlib.asynccontextmanager
    async def commit(self, entry: AuditEntry) -> AsyncIterator[Any]:
        """Yield the pipeline of a change, and execute it together with its audit entry."""
        async with self._client.pipeline(transaction=True) as pipe:
            yield pipe
            pipe.xadd(stream_key(AUDIT, prefix=self._prefix), codec.encode(AUDIT, entry))
            await pipe.execute()


class VisitStore(AuditedStore):
    """Visits, people and the watch-list."""

    async def load_visit(self, visit: str) -> Visit | None:
        """Load one visit."""
        return from_hash_fields(await self._client.hgetall(self.keys.visit(visit)), Visit)

    async def find_by_code(self, code: str) -> Visit | None:
        """Find the visit of a badge."""
        found = await self._client.hget(self.keys.codes, code)
        return await self.load_visit(found.decode()) if found else None

    async def load_person(self, person: str) -> Person | None:
        """Load a person; None after the data was erased."""
        return from_hash_fields(await self._client.hgetall(self.keys.person(person)), Person) if person else None

    async def list_live(self) -> list[tuple[Visit, Person | None]]:
        """List every visit that is not over, by expected start."""
        return await self.load_rows([raw.decode() for raw in await self._client.smembers(self.keys.live)])

    async def list_between(self, start: float, end: float, limit: int) -> list[tuple[Visit, Person | None]]:
        """List visits whose expected start is in [start, end).

        Args:
            start: Unix seconds, included.
            end: Unix seconds, excluded.
            limit: maximum number.

        Returns:
            Visits with their people, by expected start.
        """
        ids = await self._client.zrangebyscore(self.keys.index, start, f"({end!r}", start=0, num=limit)
        return await self.load_rows([raw.decode() for raw in ids])

    async def load_rows(self, ids: Sequence[str]) -> list[tuple[Visit, Person | None]]:
        """Load these visits with their people, by expected start; skip missing ones."""
        pipe = self._client.pipeline(transaction=False)
        for name in ids:
            pipe.hgetall(self.keys.visit(name))
        visits = [visit for fields in await pipe.execute() if (visit := from_hash_fields(fields, Visit)) is not None]
        pipe = self._client.pipeline(transaction=False)
        for visit in visits:
            pipe.hgetall(self.keys.person(visit.person))
        people = [from_hash_fields(fields, Person) for fields in await pipe.execute()]
        return sorted(zip(visits, people), key=lambda row: (row[0].expected_from, row[0].id))

    async def add(self, visit: Visit, person: Person, event: Event, entry: AuditEntry) -> None:
        """Store a new visit and its person.

        Args:
            visit: the new visit.
            person: its person.
            event: event to publish.
            entry: audit entry to write.
        """
        async with self._client.pipeline(transaction=True) as pipe:
            stage_new(pipe, visit, person, event, [entry], self._prefix)
            await pipe.execute()

    async def change(self, before: Visit, after: Visit, events: list[Event], entry: AuditEntry) -> bool:
        """Store a change of a visit.

        Args:
            before: the visit that the change is based on.
            after: the changed visit.
            events: events to publish.
            entry: audit entry to write.

        Returns:
            False where another client has changed the visit meanwhile.
        """
        update = _replace_whole(after, before.version, events)
        return bool(await stage_update(self._client, update, [entry], self._prefix))

    async def list_listings(self) -> list[WatchListEntry]:
        """List the watch-list, oldest first."""
        rows = await self._client.hgetall(self.keys.listings)
        return sorted(
            (msgspec.json.decode(raw, type=WatchListEntry) for raw in rows.values()), key=lambda row: row.added_at
        )

    async def save_listing(self, listing: WatchListEntry, entry: AuditEntry) -> None:
        """Add or replace an entry of the watch-list."""
        async with self.commit(entry) as pipe:
            pipe.hset(self.keys.listings, listing.id, msgspec.json.encode(listing))

    async def drop_listing(self, listing: str, entry: AuditEntry) -> bool:
        """Remove an entry of the watch-list; return False where there is none."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(self.keys.listings, listing)
            pipe.xadd(stream_key(AUDIT, prefix=self._prefix), codec.encode(AUDIT, entry))
            return bool((await pipe.execute())[0])

    async def list_visits_of_person(self, person: str) -> list[Visit]:
        """List all visits of one person."""
        ids = await self._client.smembers(self.keys.visits_of(person))
        return [visit for visit, _ in await self.load_rows(sorted(raw.decode() for raw in ids))]

    async def erase(self, person: str, entry: AuditEntry) -> int:
        """Erase the personal data of one person and return the number of visits, which stay for statistics."""
        visits = await self.list_visits_of_person(person)
        async with self.commit(entry) as pipe:
            for visit in visits:
                blank = dict.fromkeys(("person", "host", "host_email", "purpose", "reason", "code"), "")
                pipe.hset(self.keys.visit(visit.id), mapping=blank)
                pipe.hdel(self.keys.codes, visit.code)
            pipe.delete(self.keys.person(person), self.keys.visits_of(person))
        return len(visits)
