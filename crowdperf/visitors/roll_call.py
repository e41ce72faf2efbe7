"""Roll call: who is on site when everybody has to leave, and who was found safe. Several devices mark at once.

Each person is a field of one Redis hash, so that two devices which mark different people never meet, and two which mark
the same one agree on who came last. Every mark is an event, which all devices hear at once.

Names are stored with people alone (`visitors.store`): a roll call names visits, and is shown with the names that there
still are. So a person's data ends everywhere at once.

Nobody is recognised: of a visitor the system knows where a person registered them last, of an area how many its cameras
count. A place of the roll call holds the one against the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from crowdperf.messaging import codec
from crowdperf.messaging.schema import AuditEntry, RollCallChanged
from crowdperf.messaging.streams import AUDIT, EVENTS, stream_key
from crowdperf.settings.areas import Area, Door
from crowdperf.visitors.visit import ON_SITE_STATES, Person, Visit

RETENTION_S = 365 * 86_400
MAX_ROLL_CALLS = 10_000
MARK_SCRIPT = """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw or redis.call('HGET', KEYS[1], 'ended') then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', unpack(cjson.decode(ARGV[3])))
return 1
"""


class RollCallEntry(Struct, frozen=True, kw_only=True):
    """One person of a roll call."""

    visit: str
    name: str = ""
    """As long as it is known, else the visit's id; the same for `company` and `host`, which are empty then."""
    company: str = ""
    host: str = ""
    area: str
    seen_at: float
    """When the area was last confirmed."""
    state: Literal["missing", "safe"] = "missing"
    by: str = ""
    at: float = 0.0


class CameraOccupancy(Struct, frozen=True, kw_only=True):
    """What the cameras say of an area."""

    occupancy: int
    uncertainty: float
    """Half the width of the 95 % interval."""
    last_door: str = ""
    """Camera and line, as people call them, of the newest crossing of one of its doors, by whomever."""
    last_entered: bool = False
    last_at: float = 0.0


class RollCallArea(Struct, frozen=True, kw_only=True):
    """An area at the beginning of a roll call: its cameras against the list."""

    area: str
    """Its id; empty for visitors of whom no area is known."""
    title: str
    cameras: str = ""
    """Names of the cameras that look at its doors and zones: where to look for who is missing."""
    listed: int = 0
    """Visitors on the list."""
    staff: int = 0
    """People who are there without being visitors (`visitors.staff_baseline`)."""
    counted: int | None = None
    """What its cameras counted; null where they have not said anything."""
    uncertainty: float = 0.0
    unlisted: int = 0
    """How many more the cameras counted than visitors and staff."""
    last_door: str = ""
    last_entered: bool = False
    last_at: float = 0.0
    inside: int | None = None
    """What its cameras count now; of a roll call that has ended, at its end."""


class RollCall(Struct, frozen=True, kw_only=True):
    """One evacuation, or drill."""

    id: str
    drill: bool
    started_at: float
    started_by: str
    ended_at: float = 0.0
    ended_by: str = ""
    marks: list[RollCallEntry] = []
    places: list[RollCallArea] = []


def build_entries(rows: Iterable[tuple[Visit, Person | None]]) -> list[RollCallEntry]:
    """Everybody who is on site, by area and name."""
    return sorted(
        (
            _add_name(RollCallEntry(visit=visit.id, area=visit.area, seen_at=visit.seen_at), visit, person)
            for visit, person in rows
            if visit.state in ON_SITE_STATES
        ),
        key=_get_sort_key,
    )


def add_names(call: RollCall, rows: Iterable[tuple[Visit, Person | None]]) -> RollCall:
    """The roll call with the names of its visits, by area and name."""
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
    """Every area of the configuration, and whatever else a visitor's last area is called.

    Args:
        entrances: doors that visitors pass; where to look for those of whom no area is known.
        staff: area -> people who are there without being visitors.
        counted: area -> what its cameras say.
        cameras: id -> the name people see.
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
    looking = [each.camera for each in entrances if not name]
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
    """The roll call with what the cameras of each area count by now."""
    now = [msgspec.structs.replace(place, inside=inside.get(place.area, place.inside)) for place in call.places]
    return msgspec.structs.replace(call, places=now)


class RollCallStore:
    """Roll calls in Redis, for the web process.

    Args:
        client: a redis.asyncio client.
        prefix: the configured key prefix.
    """

    def __init__(self, client: Any, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix

    def _get_key(self, call: str) -> str:
        return f"{self._prefix}crowdperf:visitors:roll-call:{call}"

    @property
    def _index_key(self) -> str:
        return f"{self._prefix}crowdperf:visitors:roll-calls"

    async def start(self, call: RollCall, entry: AuditEntry) -> None:
        """Store a new one."""
        head = msgspec.json.encode(msgspec.structs.replace(call, marks=[]))
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(
                self._get_key(call.id),
                mapping={"head": head, **{f"m:{m.visit}": msgspec.json.encode(_strip_name(m)) for m in call.marks}},
            )
            pipe.expire(self._get_key(call.id), RETENTION_S)
            pipe.zadd(self._index_key, {call.id: call.started_at})
            pipe.zremrangebyscore(self._index_key, "-inf", call.started_at - RETENTION_S)
            self._stage_event(pipe, _build_event(call, "started", call.started_at, call.started_by))
            pipe.xadd(stream_key(AUDIT, prefix=self._prefix), codec.encode(AUDIT, entry))
            await pipe.execute()

    def _stage_event(self, pipe: Any, event: RollCallChanged) -> None:
        pipe.xadd(stream_key(EVENTS, prefix=self._prefix), codec.encode(EVENTS, event))

    async def load(self, call: str) -> RollCall | None:
        """One roll call with everybody's mark, without names (`named`)."""
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
            # Of an older version, which kept people alone.
            head = msgspec.structs.replace(head, places=build_places(marks, (), (), {}, {}, {}))
        return msgspec.structs.replace(head, marks=sorted(marks, key=_get_sort_key))

    async def list_newest(self, limit: int = 50) -> list[str]:
        """Ids, newest first."""
        return [raw.decode() for raw in await self._client.zrevrange(self._index_key, 0, limit - 1)]

    async def load_entries(self, visits: Sequence[str]) -> dict[str, list[RollCallEntry]]:
        """Roll call -> the marks of these visits, of every roll call that has one."""
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
        """Store one mark; False when the roll call has ended, or knows no such person."""
        event = _build_event(call, entry.state, entry.at, entry.by, entry.visit)
        said = [str(part) for pair in codec.encode(EVENTS, event).items() for part in pair]
        keys = (self._get_key(call.id), stream_key(EVENTS, prefix=self._prefix))
        arguments = (f"m:{entry.visit}", msgspec.json.encode(_strip_name(entry)), msgspec.json.encode(said))
        return bool(await self._client.eval(MARK_SCRIPT, 2, *keys, *arguments))

    async def end(self, call: RollCall, by: str, now: float, entry: AuditEntry) -> bool:
        """End it, with what the cameras count now; False where it has ended already."""
        if not await self._client.hsetnx(self._get_key(call.id), "ended", msgspec.json.encode((now, by))):
            return False
        inside = {place.area: place.inside for place in call.places if place.inside is not None}
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(self._get_key(call.id), "inside", msgspec.json.encode(inside))
            self._stage_event(pipe, _build_event(call, "ended", now, by))
            pipe.xadd(stream_key(AUDIT, prefix=self._prefix), codec.encode(AUDIT, entry))
            await pipe.execute()
        return True


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
