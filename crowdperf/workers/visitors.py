"""worker-visitors: what time and cameras change about visits. People change them through the web.

Pure logic: the worker knows of each visit what its events have said (never a name), and asks for a change by version. A
person who was faster wins; the visit's next event brings the worker up to date.
"""

from __future__ import annotations

import time
import zoneinfo
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.events.connection import connect
from crowdperf.events.schema import AreaChanged, Event, LineCrossed, VisitorChanged, VisitorNotice
from crowdperf.rule_slices import VisitorsSlice
from crowdperf.runtime import Runtime
from crowdperf.visitors import lifecycle, seeds, store
from crowdperf.visitors.model import LIVE, ON_SITE, State
from crowdperf.visitors.reconcile import Reconciliation
from crowdperf.workers.base import Member
from crowdperf.workers.leases import Leases
from crowdperf.workers.logic import Taken
from crowdperf.workers.loop import work

WORKER = "visitors"
SITE = ""
"""All visits are one part: areas and entrances look at all of them."""
VERSION = 1
EXPIRY_S = 600.0


class Open(Struct, kw_only=True):
    """A visit as its events have told."""

    visit: str
    person: str
    version: int
    state: State
    expected_from: float
    expected_until: float
    area: str
    since: float
    """When it got into its state."""
    asked: int = 0
    """The version that a change was asked for: not again before the next event."""
    reminded: bool = False


class SiteState(Struct, kw_only=True):
    """What is stored."""

    version: int = VERSION
    visits: dict[str, Open] = {}
    cameras: Reconciliation = msgspec.field(default_factory=Reconciliation)
    expired_at: float = 0.0


class VisitSet(Struct, frozen=True, kw_only=True):
    """A rule's change of a visit: stored, with its events, if the visit is still of version `on`."""

    visit: str
    on: int
    fields: dict[str, Any]
    begins: float
    live: bool
    events: list[Event]


class Expire(Struct, frozen=True):
    """Names of visits that began before this time go, and what was put on the watch-list before `listed_before`."""

    before: float
    listed_before: float
    """0: nothing."""


class VisitorLogic:
    """The rules. Everything belongs to one part, the site."""

    wants: tuple[type[Event], ...] = (VisitorChanged, AreaChanged, LineCrossed)

    def __init__(self, slice_: VisitorsSlice) -> None:
        self._rules = slice_.visitors
        self._areas = slice_.areas
        self._zone = zoneinfo.ZoneInfo(slice_.timezone)
        doors = [*slice_.visitors.entrances, *(door for area in slice_.areas for door in area.doors)]
        self._doors = {(door.camera, door.line) for door in doors}
        self._site = SiteState()

    def parts(self, event: Taken) -> tuple[str, ...]:
        """The site."""
        return (SITE,)

    def handle(self, event: Taken, part: str = "") -> Iterator[Struct]:
        """Take one event; yields VisitorNotice and TailgatingSuspected."""
        site = self._site
        if isinstance(event, AreaChanged):
            site.cameras.counted(event)
        elif isinstance(event, LineCrossed):
            if (event.camera, event.line) in self._doors:
                yield from site.cameras.crossed(event, self._areas, self._rules)
        elif isinstance(event, VisitorChanged):
            yield from self._changed(event)

    def _changed(self, event: VisitorChanged) -> Iterator[Struct]:
        before = self._site.visits.get(event.visit)
        if before is not None and before.version >= event.version:
            return
        if event.state not in LIVE:
            self._site.visits.pop(event.visit, None)
            return
        moved = before is None or before.state != event.state
        later = before is None or before.expected_until != event.expected_until
        self._site.visits[event.visit] = Open(
            visit=event.visit,
            person=event.person,
            version=event.version,
            state=msgspec.convert(event.state, State),
            expected_from=event.expected_from,
            expected_until=event.expected_until,
            area=event.area,
            since=event.ts if before is None or moved else before.since,
            reminded=not later and before is not None and before.reminded,
        )
        if event.state == "checked_in" and moved:
            self._site.cameras.checked_in(event.ts)
        if event.state in ("arrived", "checked_in") and event.previous not in ("arrived", "checked_in"):
            yield _notice(event.visit, "arrived", event.ts, event.version)

    def due(self, part: str, now: float) -> Iterable[Struct]:
        """No-shows, reminders, overstays, the night's check-out, differences between cameras and list, expiry."""
        effects: list[Struct] = []
        for visit in list(self._site.visits.values()):
            if visit.asked < visit.version:
                effects += self._due(visit, now)
        effects += self._site.cameras.compare(self._expected(), self._rules, now)
        if now - self._site.expired_at >= EXPIRY_S:
            self._site.expired_at = now
            listed = self._rules.watch_list_days
            effects.append(Expire(now - self._rules.retention_days * 86_400, now - listed * 86_400 if listed else 0.0))
        return effects

    def _due(self, visit: Open, now: float) -> Iterator[Struct]:
        rules = self._rules
        if visit.state == "invited" and now >= visit.expected_from + rules.no_show_after_s:
            yield self._set(visit, "no_show", now, {}, "no_show")
        elif visit.state in ("arrived", *ON_SITE) and visit.since < self._last_night(now):
            # Who came and was not let in has gone as well: nobody says so, and the visit would stay for ever.
            yield self._set(visit, "checked_out", now, {"checked_out_at": now, "auto_checked_out": True}, None)
        elif visit.state in ("checked_in", "on_site") and now >= visit.expected_until + rules.overstay_grace_s:
            yield self._set(visit, "overstayed", now, {}, "overstayed")
        elif (
            visit.state in ("checked_in", "on_site")
            and rules.reminder_before_s
            and not visit.reminded
            and now >= visit.expected_until - rules.reminder_before_s
        ):
            visit.reminded = True
            yield _notice(visit.visit, "sign_out_reminder", now, visit.version)

    def _last_night(self, now: float) -> float:
        """When the night's check-out was last due, Unix seconds."""
        local = datetime.fromtimestamp(now, self._zone)
        hour, minute = (int(part) for part in self._rules.night_check_out.split(":"))
        due = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return (due if due <= local else due - timedelta(days=1)).timestamp()

    def _set(self, visit: Open, state: State, now: float, fields: dict[str, Any], notice: Any) -> VisitSet:
        visit.asked = visit.version
        version = visit.version + 1
        changed = VisitorChanged(
            id=f"visit:{visit.visit}:{version}",
            camera="",
            ts=now,
            visit=visit.visit,
            person=visit.person,
            state=state,
            previous=visit.state,
            version=version,
            expected_from=visit.expected_from,
            expected_until=visit.expected_until,
            area=visit.area,
            auto=1 if fields.get("auto_checked_out") else 0,
        )
        events: list[Event] = [changed]
        if notice:
            events.append(_notice(visit.visit, notice, now, version))
        return VisitSet(
            visit=visit.visit,
            on=visit.version,
            fields={"state": state, "version": version, **fields},
            begins=visit.expected_from,
            live=state in LIVE,
            events=events,
        )

    def _expected(self) -> dict[str, int]:
        """Area -> visitors who are checked in there, and staff; of the areas that have a baseline."""
        people = dict(self._rules.staff_baseline)
        for visit in self._site.visits.values():
            if visit.state in ON_SITE and visit.area in people:
                people[visit.area] += 1
        return people

    def state(self, part: str) -> bytes:
        """Everything."""
        return msgspec.msgpack.encode(self._site)

    def restore(self, part: str, state: bytes) -> None:
        """Continue there.

        Raises:
            ValueError: another version.
        """
        raw: Any = msgspec.msgpack.decode(state)
        if not isinstance(raw, dict) or raw.get("version") != VERSION:
            raise ValueError(f"visitors of another version than {VERSION}")
        self._site = msgspec.convert(raw, SiteState)
        self._site.cameras.keep(self._areas)

    def keeps(self, part: str) -> bool:
        """The site is always there."""
        return True

    def forget(self, part: str, now: float) -> Iterable[Struct]:
        """Never asked."""
        return ()

    def clear(self) -> None:
        """Forget everything."""
        self._site = SiteState()


def _notice(visit: str, notice: Any, now: float, version: int) -> VisitorNotice:
    return VisitorNotice(id=f"visit:{visit}:{version}:{notice}", camera="", ts=now, visit=visit, notice=notice)


def main(slice_: VisitorsSlice, runtime: Runtime) -> None:
    """Work until told to stop."""
    client = connect(slice_.redis_url)
    prefix = slice_.key_prefix

    def stage(pipe: Any, effect: Struct) -> None:
        if isinstance(effect, VisitSet):
            store.stage_fields(
                pipe, effect.visit, effect.on, effect.fields, effect.begins, effect.live, effect.events, prefix
            )
        elif isinstance(effect, Expire):
            store.stage_expiry(pipe, effect.before, prefix)
            if effect.listed_before:
                store.stage_forget(pipe, effect.listed_before, prefix)

    leases = Leases(client, WORKER, slice_.instance, slice_.instances, runtime.name, prefix)
    member = Member(
        client, VisitorLogic(slice_), leases, runtime.metrics, time.monotonic, time.time, stage=stage, prefix=prefix
    )
    waiting = [slice_.visitors.demo and slice_.instance == 0]

    def seed_once() -> None:
        if waiting[0]:
            seed(client, time.time(), prefix)
            waiting[0] = False

    work(member, runtime, seed_once)
    member.stop()


def seed(client: Any, now: float, prefix: str = "") -> int:
    """The demo site's visitors, where there has never been a visit; returns how many were put in."""
    if client.exists(store.Keys(prefix).index):
        return 0
    rows = seeds.visits(now)
    with client.pipeline(transaction=True) as pipe:
        for person, visit in rows:
            store.stage_new(pipe, visit, person, lifecycle.event(None, visit, now, "demo"), [], prefix)
        pipe.execute()
    return len(rows)
