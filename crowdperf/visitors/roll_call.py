"""Roll call: people on site during an evacuation, marked as safe by several devices at once.

Each person is a field of one Redis hash. Marks of different people never conflict, and of two marks of one person the
later wins. Every mark is an event for all devices.

Names are stored with people only. A roll call stores visit ids and is shown with the names that still exist, so erasing
a person takes effect everywhere.

Cameras recognise no one. For a visitor the last registered area is known, and for an area the camera count; each place
of the roll call shows both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from crowdperf.messaging import codec
from crowdperf.messaging.schema import AuditEntry, RollCallChanged
from crowdperf.messaging.streams import AUDIT, EVENTS, stream_key
from crowdperf.settings.areas import Area, Door
from crowdperf.visitors.visit import ON_SITE_STATES, Person, Visit
from crowdperf.visitors.visit_store import AuditedStore

RETENTION_S = 365 * 86_400
MAX_ROLL_CALLS = 10_000
MARK_SCRIPT = """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw or redis.call('HGET', KEYS[1], 'ended') then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', unpack(cjson.decode(ARGV[3])))
return 1
"""
END_SCRIPT = """
if redis.call('HSETNX', KEYS[1], 'ended', ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'inside', ARGV[2])
for place, fields in ipairs(cjson.decode(ARGV[3])) do redis.call('XADD', KEYS[1 + place], '*', unpack(fields)) end
return 1
"""


class RollCallEntry(Struct, frozen=True, kw_only=True):
    """One person of a roll call."""

    visit: str
    name: str = ""
    """The name while it is known, else the visit id. Then `company` and `host` are empty."""
    company: str = ""
    host: str = ""
    area: str
    seen_at: float
    """Time of the last confirmation of the area."""
    state: Literal["missing", "safe"] = "missing"
    by: str = ""
    at: float = 0.0


class CameraOccupancy(Struct, frozen=True, kw_only=True):
    """The occupancy of an area by its cameras."""

    occupancy: int
    uncertainty: float
    """Half the width of the 95 % interval."""
    last_door: str = ""
    """Names of camera and line of the newest crossing of a door."""
    last_entered: bool = False
    last_at: float = 0.0


class RollCallArea(Struct, frozen=True, kw_only=True):
    """An area at the start of a roll call: its cameras compared with the list."""

    area: str
    """Area id; empty for visitors without a known area."""
    title: str
    cameras: str = ""
    """Names of the cameras at its doors and zones: where to look for missing people."""
    listed: int = 0
    """Number of visitors on the list."""
    staff: int = 0
    """Number of other people (`visitors.staff_baseline`)."""
    counted: int | None = None
    """Occupancy by the cameras; null before their first event."""
    uncertainty: float = 0.0
    unlisted: int = 0
    """Surplus of the cameras over visitors and staff."""
    last_door: str = ""
    last_entered: bool = False
    last_at: float = 0.0
    inside: int | None = None
    """Present occupancy by the cameras; after the end of the roll call, that of its end."""


class RollCall(Struct, frozen=True, kw_only=True):
    """One evacuation or drill."""

    id: str
    drill: bool
    started_at: float
    started_by: str
    ended_at: float = 0.0
    ended_by: str = ""
    marks: list[RollCallEntry] = []
    places: list[RollCallArea] = []


def build_entries(rows: Iterable[tuple[Visit, Person | None]]) -> list[RollCallEntry]:
    """Build an entry for every visitor on site, by area and name."""
    return sorted(
        (
            _add_name(RollCallEntry(visit=visit.id, area=visit.area, seen_at=visit.seen_at), visit, person)
            for visit, person in rows
            if visit.state in ON_SITE_STATES
        ),
        key=_get_sort_key,
    )


def add_names(call: RollCall, rows: Iterable[tuple[Visit, Person | None]]) -> RollCall:
    """Return the roll call with the names of its visits, by area and name."""
    known = {visit.id: (visit, person) for visit, person in rows}
    marks = [_add_name(mark, *known.get(mark.visit, (None, None))) for mark in call.marks]
    return msgspec.structs.replace(call, marks=sorted(marks, key=_get_sort_key))


def _add_name(entry: RollCallEntry, visit: Visit | None, person: Person | None) -> RollCallEntry:
    return msgspec.structs.replace(
        entry,
        name=person.name if person else entry.visit,
        company=person.company if person else "",
        host=visit.host if visit else "",
    )


def _strip_name(entry: RollCallEntry) -> RollCallEntry:
    return msgspec.structs.replace(entry, name="", company="", host="")


def _get_sort_key(entry: RollCallEntry) -> tuple[str, str]:
    return entry.area, entry.name


def build_places(
    entries: Sequence[RollCallEntry],
    areas: Sequence[Area],
    entrances: Sequence[Door],
    staff: Mapping[str, int],
    occupancies: Mapping[str, CameraOccupancy],
    cameras: Mapping[str, str],
) -> list[RollCallArea]:
    """Build a place for every configured area and for every other area of a visitor.

    Args:
        entries: people of the roll call.
        areas: configured areas.
        entrances: doors for visitors, where to look for those without a known area.
        staff: area -> number of other people.
        occupancies: area -> occupancy by its cameras.
        cameras: camera id -> display name.

    Returns:
        Configured areas first, then the others by name.
    """
    known = {area.id: area for area in areas}
    listed = {name: sum(mark.area == name for mark in entries) for name in {*known, *(mark.area for mark in entries)}}
    return [
        _build_place(name, known.get(name), listed[name], staff.get(name, 0), occupancies.get(name), entrances, cameras)
        for name in [*known, *sorted(set(listed) - set(known))]
    ]


def _build_place(
    name: str,
    area: Area | None,
    listed: int,
    staff: int,
    occupancy: CameraOccupancy | None,
    entrances: Sequence[Door],
    cameras: Mapping[str, str],
) -> RollCallArea:
    looking = [door.camera for door in entrances if not name]
    if area is not None:
        looking = [*(door.camera for door in area.doors), *(zone.camera for zone in area.zones)]
    place = RollCallArea(
        area=name,
        title=(area.name if area else "") or name,
        cameras=", ".join(dict.fromkeys(cameras.get(camera, camera) for camera in looking)),
        listed=listed,
        staff=staff,
    )
    if occupancy is None:
        return place
    return msgspec.structs.replace(
        place,
        counted=occupancy.occupancy,
        uncertainty=occupancy.uncertainty,
        unlisted=max(0, occupancy.occupancy - listed - staff),
        last_door=occupancy.last_door,
        last_entered=occupancy.last_entered,
        last_at=occupancy.last_at,
        inside=occupancy.occupancy,
    )


def update_inside(call: RollCall, inside: Mapping[str, int]) -> RollCall:
    """Return the roll call with the present occupancy of each area."""
    now = [msgspec.structs.replace(place, inside=inside.get(place.area, place.inside)) for place in call.places]
    return msgspec.structs.replace(call, places=now)


def hide_cameras(call: RollCall, cameras: Collection[str], doors: Collection[str]) -> RollCall:
    """Return the roll call without the names of other cameras and doors than these.

    Args:
        call: the roll call.
        cameras: names of the cameras that may be seen.
        doors: names of their lines, as in `last_door`.

    Returns:
        The roll call with its figures and times unchanged.
    """
    places = [
        msgspec.structs.replace(
            place,
            cameras=", ".join(name for name in place.cameras.split(", ") if name in cameras),
            last_door=place.last_door if place.last_door in doors else "",
        )
        for place in call.places
    ]
    return msgspec.structs.replace(call, places=places)


class RollCallStore(AuditedStore):
    """Roll calls in Redis, for the web process."""

    def _get_key(self, call: str) -> str:
        return f"{self._prefix}crowdperf:visitors:roll-call:{call}"

    @property
    def _index_key(self) -> str:
        return f"{self._prefix}crowdperf:visitors:roll-calls"

    async def start(self, call: RollCall, entry: AuditEntry) -> None:
        """Store a new roll call."""
        head = msgspec.json.encode(msgspec.structs.replace(call, marks=[]))
        async with self.commit(entry) as pipe:
            pipe.hset(
                self._get_key(call.id),
                mapping={"head": head, **{f"m:{m.visit}": msgspec.json.encode(_strip_name(m)) for m in call.marks}},
            )
            pipe.expire(self._get_key(call.id), RETENTION_S)
            pipe.zadd(self._index_key, {call.id: call.started_at})
            pipe.zremrangebyscore(self._index_key, "-inf", call.started_at - RETENTION_S)
            self._stage_event(pipe, _build_event(call, "started", call.started_at, call.started_by))

    def _stage_event(self, pipe: Any, event: RollCallChanged) -> None:
        pipe.xadd(stream_key(EVENTS, prefix=self._prefix), codec.encode(EVENTS, event))

    async def load(self, call: str) -> RollCall | None:
        """Load one roll call with all marks, without names (`add_names`)."""
        rows = await self._client.hgetall(self._get_key(call))
        if b"head" not in rows:
            return None
        head = msgspec.json.decode(rows[b"head"], type=RollCall)
        if b"ended" in rows:
            at, by = msgspec.json.decode(rows[b"ended"], type=tuple[float, str])
            head = msgspec.structs.replace(head, ended_at=at, ended_by=by)
        if b"inside" in rows:
            head = update_inside(head, msgspec.json.decode(rows[b"inside"], type=dict[str, int]))
        marks = [msgspec.json.decode(raw, type=RollCallEntry) for name, raw in rows.items() if name.startswith(b"m:")]
        if not head.places:
            # Written by an older version, which stored people only.
            head = msgspec.structs.replace(head, places=build_places(marks, (), (), {}, {}, {}))
        return msgspec.structs.replace(head, marks=sorted(marks, key=_get_sort_key))

    async def list_newest(self, limit: int = 50) -> list[str]:
        """List ids, newest first."""
        return [raw.decode() for raw in await self._client.zrevrange(self._index_key, 0, limit - 1)]

    async def load_entries(self, visits: Sequence[str]) -> dict[str, list[RollCallEntry]]:
        """Return roll call -> the marks of these visits, for each roll call that has one."""
        calls = await self.list_newest(MAX_ROLL_CALLS)
        pipe = self._client.pipeline(transaction=False)
        for call in calls:
            pipe.hmget(self._get_key(call), *(f"m:{visit}" for visit in visits))
        rows = await pipe.execute() if visits else []
        return {
            call: [msgspec.json.decode(raw, type=RollCallEntry) for raw in row if raw]
            for call, row in zip(calls, rows)
            if any(row)
        }

    async def mark_person(self, call: RollCall, entry: RollCallEntry) -> bool:
        """Store one mark; return False for an ended roll call or an unknown person."""
        event = _build_event(call, entry.state, entry.at, entry.by, entry.visit)
        fields = [str(part) for pair in codec.encode(EVENTS, event).items() for part in pair]
        keys = (self._get_key(call.id), stream_key(EVENTS, prefix=self._prefix))
        arguments = (f"m:{entry.visit}", msgspec.json.encode(_strip_name(entry)), msgspec.json.encode(fields))
        return bool(await self._client.eval(MARK_SCRIPT, 2, *keys, *arguments))

    async def end(self, call: RollCall, by: str, now: float, entry: AuditEntry) -> bool:
        """End the roll call with its event and its audit entry in one step.

        Args:
            call: the roll call with the present occupancies.
            by: name of the user.
            now: Unix seconds.
            entry: audit entry to write.

        Returns:
            False where it has ended already.
        """
        inside = {place.area: place.inside for place in call.places if place.inside is not None}
        messages = codec.encode(EVENTS, _build_event(call, "ended", now, by)), codec.encode(AUDIT, entry)
        fields = [[str(part) for pair in message.items() for part in pair] for message in messages]
        keys = (self._get_key(call.id), *(stream_key(stream, prefix=self._prefix) for stream in (EVENTS, AUDIT)))
        values = [msgspec.json.encode(value) for value in ((now, by), inside, fields)]
        return bool(await self._client.eval(END_SCRIPT, len(keys), *keys, *values))


def _build_event(
    call: RollCall, state: Literal["started", "safe", "missing", "ended"], now: float, by: str, visit: str = ""
) -> RollCallChanged:
    return RollCallChanged(
        id=f"roll-call:{call.id}:{visit}:{state}:{now!r}",
        camera="",
        ts=now,
        roll_call=call.id,
        state=state,
        visit=visit,
        drill=1 if call.drill else 0,
        by=by,
    )
